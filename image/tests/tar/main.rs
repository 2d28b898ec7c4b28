//! Tars of many writers, by way of the layer index and back.

mod check;
mod property;
