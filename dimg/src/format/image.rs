//! What a file makes, once its parent is known.

use super::{FrameKind, StageCodec};
use crate::Digest;
use crate::index::{Content, LayerIndex};
use std::collections::HashMap;
use std::sync::Arc;

/// The layers of an image, and how to make the contents that its parent does not have.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// The lowest first. Those that the parent has too are shared with it.
    pub layers: Vec<Arc<LayerIndex>>,
    /// By the digest of what they make.
    pub recipes: HashMap<Digest, Recipe>,
}

/// How a content is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// What is made.
    pub content: Content,
    /// The content of the parent that the first stage patches; none when it is stored.
    pub base: Option<Content>,
    /// At least one; each makes what the next one patches, the last one the content.
    pub stages: Vec<Stage>,
}

/// A step of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// How it makes its bytes.
    pub codec: StageCodec,
    /// The codec's version.
    pub version: u32,
    /// What kind of frame it uses; means nothing for a codec without frames.
    pub kind: FrameKind,
    /// The frame; for a large stored content the first of its chunks.
    pub frame: u32,
    /// Where in a group: a program's number, a stored content's distance from the start; else zero.
    pub slot: u64,
    /// Bytes that it makes.
    pub out_bytes: u64,
}
