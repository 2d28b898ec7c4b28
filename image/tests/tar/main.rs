//! Tars of many writers, by way of the layer index and back.

mod check;
mod golang;
mod pinned;
mod property;
mod tree;
mod writers;
