//! Why a file system could not be served to a machine.

use std::io;
use std::path::PathBuf;

/// A failure before or while a machine is served.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    /// A system call failed.
    #[error("{action}: {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The monitor said what it must not, or the device could not be set up.
    #[error("serve machine: {socket}: {why}")]
    Device {
        /// Where it connected.
        socket: String,
        /// What went wrong.
        why: String,
    },
}

impl VirtioError {
    /// Turns an error of the operating system about `path` into a failure of doing `action`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
