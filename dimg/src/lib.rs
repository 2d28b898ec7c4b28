//! Delta images: what an image is made of, the file that carries a delta, and the engine that makes and applies it.
//!
//! - [`Digest`]: SHA-256 names of contents, layers and images.
//! - [`build`](mod@build): a delta of two images.
//! - [`content`]: where the bytes of a content come from.
//! - [`engine`]: how contents are made from others: matcher, programs, codecs, frames.
//! - [`format`](mod@format): the files, written and read.
//! - [`index`]: a layer's tar without its contents, in columns; whole or as an edit of a parent's layers.
//! - [`memory`]: what makers of contents share.
//! - [`merge`](mod@merge): deltas that follow each other as one.
//! - [`path`]: the cheapest way through deltas from what a node has to an image.
//!
//! The byte-exact layout of the files is in `FORMAT.md` beside this crate. Nothing here knows a file system in user
//! space, a wire protocol or a container runtime; all input is untrusted and every length is checked before use.

#![forbid(unsafe_code)]

pub mod build;
pub mod content;
mod digest;
pub mod engine;
pub mod format;
pub mod index;
pub mod limits;
pub mod memory;
pub mod merge;
pub mod path;
pub mod wire;

pub use digest::{Digest, Hasher, HashingWriter, ParseDigestError};
