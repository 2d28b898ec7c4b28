//! Tars of many writers, by way of the layer index and back.

mod check;
mod golang;
mod property;
mod tree;
mod writers;
