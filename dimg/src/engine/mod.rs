//! The delta engine: how one content is made from another, or from nothing.
//!
//! A patch is a *program* ([`program`]) of copy-add / insert operations, found by the [`matcher`] and held as seven streams, each
//! compressed by itself ([`compress`]). What a file stores are *frames* ([`frame`]): programs, joined when they are small, and
//! stored contents. [`bsdiff`] is the foreign codec beside it. A [`sketch`] finds the content that a patch starts from, where no name tells.
//! Numbered parts of one content's work go to several threads by `parallel`.
//!
//! Everything that decodes takes hostile bytes: lengths are checked against named limits before memory is taken, and no input
//! panics. Everything that encodes gives the same bytes for any number of threads.

pub mod bsdiff;
pub mod compress;
pub mod deflate;
pub mod elf;
pub mod error;
pub mod frame;
pub mod matcher;
pub mod member;
pub(crate) mod parallel;
pub mod program;
pub mod sketch;
pub mod varint;

pub use error::EngineError;
