//! containerd snapshotter of delta images: the Snapshots service over gRPC and ttrpc.

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
mod error;
pub mod snapshot;
pub mod store;

pub use error::{Error, Result};
