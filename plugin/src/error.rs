//! The plugin's errors, and the one place that turns them into codes of the wire.

use std::io;
use std::path::PathBuf;

use di3fs::store::StoreError;
use nix::errno::Errno;
use protobuf::EnumOrUnknown;
use tonic::Code;

/// What can go wrong in the plugin. Messages are one line: what failed, on what, why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A snapshot, parent or layer does not exist.
    #[error("{what}: not found")]
    NotFound {
        /// What was done, and on what.
        what: String,
    },
    /// A name or key is taken.
    #[error("{what}: already exists")]
    AlreadyExists {
        /// What was done, and on what.
        what: String,
    },
    /// The request cannot be right whatever the state is.
    #[error("{what}: invalid argument")]
    InvalidArgument {
        /// What was done, on what, and why it is wrong.
        what: String,
    },
    /// The state does not allow the request.
    #[error("{what}: failed precondition")]
    FailedPrecondition {
        /// What was done, on what, and what stands against it.
        what: String,
    },
    /// A peer, or this plugin itself, cannot serve now.
    #[error("{what}")]
    Unavailable {
        /// What was done, on what, and why.
        what: String,
    },
    /// The disk or a quota is full.
    #[error("{what}")]
    NoSpace {
        /// What was done, on what, and why it found no room.
        what: String,
    },
    /// Another plugin serves the same root directory or socket.
    #[error("{what} {}: in use by another di3fs-snapshotter", path.display())]
    InUse {
        /// `root` or `socket`.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("{action}: {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The metadata store failed.
    #[error("metadata: {action}: {source}")]
    Metadata {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: Box<redb::Error>,
    },
    /// The metadata store holds what this version cannot read.
    #[error("metadata: {what}")]
    Corrupt {
        /// Which record, and why.
        what: String,
    },
    /// The configuration cannot be used.
    #[error("config: {what}")]
    Config {
        /// Which key or file, and why.
        what: String,
    },
    /// A task of the plugin died.
    #[error("{what}: internal error")]
    Internal {
        /// Which.
        what: String,
    },
}

/// What the plugin's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn metadata<E: Into<redb::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::Metadata { action, source: Box::new(e.into()) }
    }

    /// A failure of the object store in doing `what`.
    pub(crate) fn store(what: impl std::fmt::Display) -> impl FnOnce(StoreError) -> Self {
        let what = what.to_string();
        move |error| match error {
            StoreError::NoSpace { .. } => Self::NoSpace { what: format!("{what}: {error}") },
            error => Self::Unavailable { what: format!("{what}: {error}") },
        }
    }

    /// Whether it may go by itself: the process or the system has too much open or no memory, the disk is full.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_passing(source),
            Self::Metadata { source, .. } => {
                matches!(source.as_ref(), redb::Error::Io(source) if is_passing(source))
            }
            _ => false,
        }
    }

    /// The code that both wires carry; gRPC's numbers, which ttrpc shares.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::NotFound,
            Self::AlreadyExists { .. } => Code::AlreadyExists,
            Self::InvalidArgument { .. } | Self::Config { .. } => Code::InvalidArgument,
            Self::FailedPrecondition { .. } | Self::InUse { .. } => Code::FailedPrecondition,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::NoSpace { .. } => Code::ResourceExhausted,
            Self::Io { source, .. } => io_code(source),
            Self::Metadata { source, .. } => match source.as_ref() {
                redb::Error::Io(e) => io_code(e),
                _ => Code::Internal,
            },
            Self::Corrupt { .. } => Code::DataLoss,
            Self::Internal { .. } => Code::Internal,
        }
    }
}

/// A full disk is worth its own code; everything else of the disk is the node's fault, not the caller's.
fn io_code(e: &io::Error) -> Code {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}

/// [`Error::is_passing`] of a system call.
pub(crate) fn is_passing(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOMEM
                | Errno::ENOBUFS
                | Errno::EINTR
                | Errno::EAGAIN
                | Errno::ENOSPC
                | Errno::EDQUOT
        )
    )
}

impl From<Error> for tonic::Status {
    fn from(e: Error) -> Self {
        Self::new(e.code(), e.to_string())
    }
}

impl From<Error> for ttrpc::Error {
    fn from(e: Error) -> Self {
        let mut status = ttrpc::Status::new();
        status.code = EnumOrUnknown::from_i32(i32::from(e.code()));
        status.message = e.to_string();
        Self::RpcStatus(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_arm() -> Vec<(Error, Code, &'static str)> {
        let what = || "stat snapshot k".to_owned();
        let io =
            |kind| Error::Io { action: "make directory", path: "/r/1".into(), source: io::Error::from(kind) };
        let meta = |e: redb::Error| Error::Metadata { action: "commit", source: Box::new(e) };
        vec![
            (Error::NotFound { what: what() }, Code::NotFound, "stat snapshot k: not found"),
            (Error::AlreadyExists { what: what() }, Code::AlreadyExists, "stat snapshot k: already exists"),
            (
                Error::InvalidArgument { what: what() },
                Code::InvalidArgument,
                "stat snapshot k: invalid argument",
            ),
            (
                Error::FailedPrecondition { what: what() },
                Code::FailedPrecondition,
                "stat snapshot k: failed precondition",
            ),
            (Error::Unavailable { what: what() }, Code::Unavailable, "stat snapshot k"),
            (
                Error::store("complete image d")(StoreError::NoSpace {
                    action: "write object",
                    path: "/r/o".into(),
                }),
                Code::ResourceExhausted,
                "complete image d: write object: /r/o: no space left",
            ),
            (
                Error::store("complete image d")(StoreError::InUse { root: "/r".into() }),
                Code::Unavailable,
                "complete image d: open object store: /r: in use",
            ),
            (
                Error::InUse { what: "root", path: "/r".into() },
                Code::FailedPrecondition,
                "root /r: in use by another di3fs-snapshotter",
            ),
            (io(io::ErrorKind::PermissionDenied), Code::Internal, "make directory: /r/1: permission denied"),
            (
                io(io::ErrorKind::StorageFull),
                Code::ResourceExhausted,
                "make directory: /r/1: no storage space",
            ),
            (
                io(io::ErrorKind::QuotaExceeded),
                Code::ResourceExhausted,
                "make directory: /r/1: quota exceeded",
            ),
            (
                meta(redb::Error::Io(io::ErrorKind::StorageFull.into())),
                Code::ResourceExhausted,
                "metadata: commit: I/O error: no storage space",
            ),
            (
                meta(redb::Error::Io(io::ErrorKind::Other.into())),
                Code::Internal,
                "metadata: commit: I/O error: other error",
            ),
            (
                meta(redb::Error::LockPoisoned(std::panic::Location::caller())),
                Code::Internal,
                "metadata: commit: ",
            ),
            (Error::Corrupt { what: what() }, Code::DataLoss, "metadata: stat snapshot k"),
            (Error::Config { what: what() }, Code::InvalidArgument, "config: stat snapshot k"),
            (Error::Internal { what: what() }, Code::Internal, "stat snapshot k: internal error"),
        ]
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let io = |errno| Error::io("read file", "/r")(io::Error::from(errno));
        assert!(io(Errno::EMFILE).is_passing() && io(Errno::EINTR).is_passing());
        assert!(Error::metadata("read")(redb::Error::Io(Errno::ENOMEM.into())).is_passing());
        assert!(!io(Errno::EIO).is_passing() && !io(Errno::ENOENT).is_passing());
        assert!(!Error::Unavailable { what: "serve".into() }.is_passing());
    }

    #[test]
    fn every_error_has_its_code_and_text_on_both_wires() {
        for (error, code, text) in every_arm() {
            assert!(error.to_string().starts_with(text), "{error}");
            let message = error.to_string();
            assert_eq!(error.code(), code, "{message}");
            assert!(!message.ends_with('.') && !message.contains('\n'), "{message}");
        }
        for (error, code, _) in every_arm() {
            let message = error.to_string();
            let status = tonic::Status::from(error);
            assert_eq!((status.code(), status.message()), (code, message.as_str()));
        }
        for (error, code, _) in every_arm() {
            let message = error.to_string();
            let ttrpc::Error::RpcStatus(status) = ttrpc::Error::from(error) else { panic!("not a status") };
            assert_eq!((status.code.value(), status.message()), (i32::from(code), message.as_str()));
        }
    }
}
