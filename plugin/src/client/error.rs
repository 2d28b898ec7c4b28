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

    /// Whether containerd, or a plugin of it, found its disk or a quota full. Most of it has no code for that, only the system's words.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        let Self::Call { status, .. } = self else { return false };
        let words = status.message().to_lowercase();
        status.code() == Code::ResourceExhausted
            || ["no space left on device", "disk quota exceeded"].iter().any(|full| words.contains(full))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_known_by_its_code_or_its_words() {
        let is_full = |status| ClientError::call("load layer", "sha256:a")(status).is_no_space();
        assert!(is_full(Status::resource_exhausted("metadata: adopt")));
        assert!(is_full(Status::unknown("write /var/lib/containerd/x: no space left on device")));
        assert!(is_full(Status::unknown("metadata: adopt: I/O error: Disk quota exceeded (os error 122)")));
        assert!(!is_full(Status::unknown("connection reset")));
    }
}
