//! Object store, file trees and their unpacked forms.
//!
//! - [`store`]: contents as read-only files named by their digests, made once whoever asks.
//! - [`tree`]: layers laid over each other to one tree: whiteouts, opaque directories, hard links.
//! - [`checkout`]: a tree written to a file system, as a root file system or as one layer of an overlay mount.
//! - [`lazy`]: contents made from the recipes of a chain of delta files when they are asked for.
//! - [`erofs`]: a tree as an EROFS image without contents.
//! - [`mount`](mod@mount): an image as a mounted file system that makes contents when they are opened.
//!
//! Nothing here knows a container runtime; contents come from any [`dimg::content::ContentSource`].

#![forbid(unsafe_code)]

pub mod checkout;
mod crew;
pub mod erofs;
mod fuse;
pub mod lazy;
pub mod mount;
pub mod store;
mod table;
pub mod tree;

#[cfg(test)]
mod testing;

/// Whether a full disk or a quota was the reason of an error.
pub fn is_no_space(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOSPC | nix::libc::EDQUOT))
}
