//! containerd snapshotter of delta images: the Snapshots service over gRPC and ttrpc.

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod control;
mod error;
pub mod import;
pub mod snapshot;
pub mod store;

pub use error::{Error, Result};
