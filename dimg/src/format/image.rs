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

impl Recipe {
    /// The frame and slot that tell when to make it: contents made in the order of these read DATA from front to back, and decode a
    /// group once. They are those of the first stage that is stored or a patch: frames of address maps and of parameters are few and
    /// small, each serves very many contents, and they are kept decoded between those. Contents that share the frame go to one thread.
    #[must_use]
    pub fn place(&self) -> (u32, u64) {
        let has_data = |stage: &&Stage| match stage.codec {
            StageCodec::Program => !stage.is_fill(),
            StageCodec::Stored | StageCodec::Bsdiff | StageCodec::Reference => true,
            StageCodec::Elf | StageCodec::Unpack | StageCodec::UnpackSome | StageCodec::Pack => false,
        };
        let stage = self.stages.iter().find(has_data).or(self.stages.first());
        stage.map_or((0, 0), |stage| (stage.frame, stage.slot))
    }
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

impl Stage {
    /// Whether it may be left out ([`StageCodec::FILL`]).
    #[must_use]
    pub fn is_fill(&self) -> bool {
        self.codec == StageCodec::Program && self.version == StageCodec::FILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_stand_where_their_data_are() {
        use StageCodec::{Bsdiff, Elf, Pack, Program, Stored, Unpack};
        let place = |codecs: &[StageCodec]| {
            let stage = |(frame, codec): (u32, &StageCodec)| Stage {
                codec: *codec,
                version: codec.version(),
                kind: FrameKind::ProgramGroup,
                frame,
                slot: u64::from(frame) * 2,
                out_bytes: 1,
            };
            let stages = (10..).zip(codecs).map(stage).collect();
            let content = Content { digest: Digest([1; 32]), size: 1 };
            Recipe { content, base: None, stages }.place()
        };
        assert_eq!(place(&[Stored]), (10, 20));
        assert_eq!(place(&[Stored, Program]), (10, 20));
        assert_eq!(place(&[Elf, Program]), (11, 22));
        assert_eq!(place(&[Program, Elf, Program]), (10, 20));
        assert_eq!(place(&[Unpack, Bsdiff, Pack]), (11, 22));
        assert_eq!(place(&[Elf]), (10, 20));
        assert_eq!(place(&[]), (0, 0));
    }
}
