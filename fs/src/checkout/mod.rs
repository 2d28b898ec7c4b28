//! Trees written to a file system.
//!
//! [`checkout_root`] writes a merged tree as a root file system, [`checkout_layer`] writes one layer as a lower directory
//! of an overlay mount. Both write beside the destination and rename: it appears whole or not at all, and what a failed
//! one wrote is removed. Every file is made within directories made by the same call, below one directory handle, links
//! never followed: no name in an image leads outside.
//!
//! Files get content, owner, extended attributes, mode, times, in this order (each can undo the ones after it); times
//! of access are set like those of change. Directories get theirs at the end. Owners, devices and trusted attributes
//! are not optional: without the privilege for what an image has, the checkout fails.

mod attributes;
mod dest;
mod error;
mod files;
mod write;

use std::num::NonZeroUsize;
use std::path::Path;

use dimg::content::ContentSource;

use crate::tree::{Layer, Tree};

pub use error::CheckoutError;
use write::Use;

/// How a tree is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that write; the default is the number of processors, but at most 8.
    pub workers: NonZeroUsize,
    /// Whether all is on the disk before the destination gets its name (`syncfs`). Off by default.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let most = const { NonZeroUsize::new(8).expect("8 is not 0") };
        Self { workers: workers.min(most), sync: false }
    }
}

/// What a checkout wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Names of any type, the root excepted; hard links count each.
    pub entries: u64,
    /// Bytes of regular files, shared blocks included.
    pub bytes: u64,
    /// Extended attributes that the file system refused to keep; see [`checkout_layer`].
    pub dropped_xattrs: u64,
}

/// Writes `tree` as a root file system at `dest`, which must not exist or be an empty directory.
///
/// # Errors
/// [`CheckoutError`]; nothing is left behind.
pub fn checkout_root(
    tree: &Tree,
    source: &dyn ContentSource,
    dest: &Path,
    options: &Options,
) -> Result<Written, CheckoutError> {
    write::write(tree, source, dest, options, Use::Root)
}

/// As [`checkout_root`], to be the only lower layer of an overlay mount, which shows it then as it is: attributes of the image that
/// overlayfs would take for its own are escaped.
///
/// # Errors
/// As for [`checkout_root`].
pub(crate) fn checkout_lower(
    tree: &Tree,
    source: &dyn ContentSource,
    dest: &Path,
    options: &Options,
) -> Result<Written, CheckoutError> {
    write::write(tree, source, dest, options, Use::Lower)
}

/// Writes `layer`, which lies on `lower`, as one directory for the `lowerdir` of an overlay mount at `dest`, which must not
/// exist or be an empty directory. Gives the layer's tree too, for [`Tree::cover`].
///
/// Whiteouts are character devices 0/0, opaque directories have `trusted.overlay.opaque`, attributes of the image in
/// that name space are escaped. The root is 0755 and root's, as containerd's snapshotters make it, whatever the image
/// says. A device 0/0 of the image itself cannot be told from a whiteout by overlayfs. Extended attributes that the file
/// system does not keep are dropped with a warning, as containerd does.
///
/// # Errors
/// [`CheckoutError`]; nothing is left behind.
pub fn checkout_layer(
    lower: &Tree,
    layer: &Layer,
    source: &dyn ContentSource,
    dest: &Path,
    options: &Options,
) -> Result<(Tree, Written), CheckoutError> {
    let tree = layer.on(lower)?;
    let written = write::write(&tree, source, dest, options, Use::Layer)?;
    Ok((tree, written))
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
