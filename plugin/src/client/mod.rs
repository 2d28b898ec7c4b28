//! containerd as its client: what `d4c load` writes there, and its content store as an image source.
//!
//! The calls block: [`Containerd`] owns the small runtime that drives its channel, so that the command line needs none.
//! An image loaded here keeps its manifest and config byte for byte; its layers are never stored as blobs, containerd is
//! told instead that the snapshotter has them already (the remote snapshot flow, `docs/containerd.md`).

mod blobs;
mod content;
mod error;
mod images;
mod lease;
mod load;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use tonic::transport::Channel;

pub use blobs::ContentBlobs;
pub use error::ClientError;
pub use load::{Loaded, NewImage};

use crate::api::{self, Headers};

/// A connection to containerd in one of its namespaces.
#[derive(Clone)]
pub struct Containerd {
    channel: Channel,
    namespace: Arc<str>,
    runtime: Arc<tokio::runtime::Runtime>,
}

impl std::fmt::Debug for Containerd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Containerd({})", self.namespace)
    }
}

impl Containerd {
    /// Connects to the daemon that listens at `socket`.
    ///
    /// # Errors
    /// Nothing answers there, or the namespace is not visible ASCII.
    pub fn connect(socket: &Path, namespace: &str) -> Result<Self, ClientError> {
        let failed = |why: String| ClientError::Connect { socket: socket.to_owned(), why };
        // The channel's own message for this is behind others.
        std::os::unix::net::UnixStream::connect(socket).map_err(|error| failed(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| failed(error.to_string()))?;
        let channel = runtime.block_on(api::connect(socket)).map_err(|error| failed(error.to_string()))?;
        let this = Self { channel, namespace: namespace.into(), runtime: Arc::new(runtime) };
        this.headers(None)?;
        Ok(this)
    }

    fn headers(&self, lease: Option<&str>) -> Result<Headers, ClientError> {
        Headers::new(&self.namespace, lease).map_err(|error| ClientError::Usage { why: error.to_string() })
    }

    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}
