//! containerd snapshotter of delta images: the Snapshots service over gRPC and ttrpc.

#![forbid(unsafe_code)]

pub mod api;
mod capabilities;
pub mod client;
pub mod config;
pub mod control;
mod error;
pub mod events;
pub mod filter;
pub mod holder;
pub mod import;
pub mod mapping;
pub mod mounts;
mod notify;
pub mod pull;
mod route;
mod run;
pub mod server;
pub mod service;
pub mod serving;
pub mod snapshot;
pub mod snapshotter;
pub mod space;
pub mod store;

pub use error::{Error, Result};
pub use run::run;
