//! Image sources (`oci:`, `docker://`, …) and tar layers: parsing into a layer index and back.
//!
//! - [`source`]: where images come from: [`source::Source::parse`], [`source::Source::open`],
//!   [`source::OpenImage::layer`].
//! - [`manifest`]: manifests, indexes and configs; [`platform`]: the choice among them.
//! - [`registry`]: a repository in a registry, by the distribution protocol.
//! - [`tar`]: a layer's tar into an index of it and back, bit for bit.
//! - [`layers`]: an image's layers read whole; [`base`]: the file that makes it from nothing.
//! - [`delta`]: deltas in a registry, and which of them to take.
//! - [`error`]: the one error of all that, with the class that decides the exit status.

#![forbid(unsafe_code)]

pub mod base;
pub mod created;
pub mod delta;
pub mod error;
pub mod layers;
pub mod manifest;
pub mod platform;
pub mod registry;
pub mod source;
pub mod tar;
