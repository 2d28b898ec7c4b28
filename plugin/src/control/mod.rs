//! The control socket: the command line's way into the plugin (`proto/d4c/control.proto`), ttrpc on a Unix socket that
//! only root may open.

mod client;
mod server;

pub use client::{ControlClient, ControlError};
pub use server::ControlServer;
