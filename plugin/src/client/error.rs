//! What can go wrong with containerd.

use std::path::PathBuf;

use tonic::{Code, Status};

/// A failed call of containerd. Messages are one line: what failed, on what, why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection.
    #[error("connect to containerd: {}: {why}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// The cause.
        why: String,
    },
    /// The caller's words cannot be sent.
    #[error("{why}")]
    Usage {
        /// Which, and why.
        why: String,
    },
    /// containerd refused.
    #[error("{what}: {on}: {}", status.message())]
    Call {
        /// What was tried.
        what: &'static str,
        /// On what.
        on: String,
        /// containerd's answer.
        status: Box<Status>,
    },
    /// The snapshotter did not say that it has a layer.
    #[error(
        "load layer: {chain_id}: the snapshotter {snapshotter} does not have it; is its plugin the one that imported the image?"
    )]
    NotThere {
        /// The layer's chain ID.
        chain_id: String,
        /// The snapshotter's name in containerd's configuration.
        snapshotter: String,
    },
}

impl ClientError {
    pub(super) fn call(what: &'static str, on: impl Into<String>) -> impl FnOnce(Status) -> Self {
        let on = on.into();
        move |status| Self::Call { what, on, status: Box::new(status) }
    }

    /// Whether containerd said that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::NotFound)
    }
}
