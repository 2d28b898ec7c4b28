//! Why an image could not be mounted.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkout::CheckoutError;
use crate::erofs::ErofsError;
use crate::store::StoreError;

/// A failed mount. What was mounted on the way is unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
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
    /// The image of metadata cannot be written.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// A content cannot be made.
    #[error(transparent)]
    Store(StoreError),
    /// The tree cannot be written.
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    /// What the kernel does at an open is not what the route needs.
    #[error("probe route: {route}: {why}")]
    Probe {
        /// The route.
        route: super::Route,
        /// What it did.
        why: String,
    },
    /// A path cannot stand in the options of an overlay mount.
    #[error("mount image: {}: {character:?} cannot stand in mount options", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        character: char,
    },
    /// No route works on this machine.
    #[error("mount image: no route works: {why}")]
    NoRoute {
        /// Why, of each.
        why: String,
    },
}

impl MountError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
