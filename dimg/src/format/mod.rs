//! The files, byte for byte as `FORMAT.md` says.
//!
//! A dimg holds how a target image's layers come from a parent's ([`Edit`](crate::index::Edit)) and a recipe for every
//! content that the parent does not have; a cdimg is a dimg with the image's own manifest and config. [`DimgWriter`]
//! takes frames as they are made and then the rest; [`Dimg`] reads. All that is read is untrusted.

pub(crate) mod blob;
mod cdimg;
mod documents;
mod dump;
mod error;
mod header;
mod image;
mod joint;
mod make;
mod memory;
mod meta;
mod output;
mod reader;
mod shares;
mod stat;
mod tables;
mod writer;

pub use cdimg::{Cdimg, DeltaFile, write_cdimg};
pub use dump::dump;
pub use error::{Class, DimgError};
pub use header::{CDIMG_MAGIC, DIMG_MAGIC, MAX_HEADER_BYTES, VERSION, announced_bytes};
pub use image::{Image, Recipe, Stage};
pub use make::Scratch;
pub use meta::{LayerCheck, LayerSource, Meta, Parent, Target, TargetLayer};
pub use output::OutputFile;
pub use reader::{Dimg, SectionInfo, Unchecked, distinct_contents};
pub use shares::Share;
pub use stat::{ContentStat, LayerStat, ParentStat, Stat, TargetStat};
pub(crate) use tables::frames_of;
pub use tables::{FrameKind, FrameRow, RecipeRow, StageCodec, StageRow};
pub use writer::{Assembled, DimgWriter};

#[cfg(test)]
mod tests;
