//! Object store, file trees and their unpacked forms.
//!
//! - [`store`]: contents as read-only files named by their digests, made once whoever asks.
//! - [`tree`]: layers laid over each other to one tree: whiteouts, opaque directories, hard links.
//! - [`checkout`]: a tree written to a file system, as a root file system or as one layer of an overlay mount.
//!
//! Nothing here knows a container runtime; contents come from any [`dimg::content::ContentSource`].

#![forbid(unsafe_code)]

pub mod checkout;
pub mod store;
pub mod tree;

#[cfg(test)]
mod testing;

/// Whether a full disk or a quota was the reason of an error.
pub fn is_no_space(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::ENOSPC | nix::libc::EDQUOT))
}
