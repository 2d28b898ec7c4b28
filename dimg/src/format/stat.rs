//! A file in numbers: what `stat --json` says.

use super::{DeltaFile, DimgError, Share, StageCodec};
use serde::Serialize;
use std::collections::BTreeMap;

/// A file in numbers. Fields are named as in the command's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stat {
    /// Its bytes.
    pub bytes: u64,
    /// `dimg` or `cdimg`.
    pub format: &'static str,
    /// The image made.
    pub target: TargetStat,
    /// The image it is made from.
    pub parent: Option<ParentStat>,
    /// All bytes but those of frames.
    pub metadata_bytes: u64,
    /// Bytes of frames.
    pub data_bytes: u64,
    /// How the target's contents come about.
    pub contents: ContentStat,
    /// By the name of the codec: `elf` where a stage is, else that of the last one. All bytes of what makes a content are that one's.
    pub by_codec: BTreeMap<&'static str, Share>,
    /// Bytes of all contents that the file makes.
    pub full_bytes: u64,
    /// What pulling the changed layers would have cost; whoever knows the registry's sizes sets it.
    pub pull_bytes: Option<u64>,
}

/// The image made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TargetStat {
    /// The name that the file suggests; may be empty.
    pub name: String,
    /// Digest of the manifest.
    pub manifest: String,
    /// Digest of the config.
    pub config: String,
    /// The lowest first.
    pub layers: Vec<LayerStat>,
}

/// A layer of the image made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerStat {
    /// Digest of the tar.
    pub diff_id: String,
    /// Its entries.
    pub entries: u64,
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// Whether it is one of the parent's.
    pub same: bool,
}

/// The image that a delta starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParentStat {
    /// Digest of the manifest.
    pub manifest: String,
    /// Diff IDs, the lowest layer's first.
    pub layers: Vec<String>,
}

/// How the target's contents come about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContentStat {
    /// Stored whole.
    pub new: u64,
    /// Made from one of the parent's.
    pub patched: u64,
    /// The parent's.
    pub reused: u64,
    /// Bytes of the frames of stored contents.
    pub stored_bytes: u64,
    /// Bytes of the frames of patches.
    pub patch_bytes: u64,
}

impl Stat {
    /// The numbers of `file`, which has `bytes` bytes.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn of(file: &DeltaFile, bytes: u64) -> Result<Self, DimgError> {
        let dimg = file.dimg();
        let (target, frames) = (dimg.target(), dimg.frames()?);
        let mut contents = ContentStat::default();
        let mut full_bytes = 0u64;
        for (content, recipe) in dimg.contents()? {
            match recipe.base {
                None => contents.new += 1,
                Some(_) => contents.patched += 1,
            }
            full_bytes = full_bytes.saturating_add(content.size);
        }
        contents.reused = target.contents.saturating_sub(contents.new + contents.patched);
        for frame in frames {
            match frame.kind.codec() {
                StageCodec::Stored => contents.stored_bytes += frame.bytes,
                _ => contents.patch_bytes += frame.bytes,
            }
        }
        let by_codec = dimg.shares(|_, recipe| {
            let relocated = recipe.stages.iter().find(|stage| stage.codec == StageCodec::Elf);
            let telling = relocated.or(recipe.stages.last());
            Ok::<_, DimgError>(telling.map_or(StageCodec::Stored, |stage| stage.codec).name())
        })?;
        let layers = target.layers.iter().map(|layer| LayerStat {
            diff_id: layer.diff_id.to_string(),
            entries: layer.entries,
            tar_bytes: layer.tar_bytes,
            same: matches!(layer.source, super::LayerSource::Parent(_)),
        });
        Ok(Self {
            bytes,
            format: file.format(),
            target: TargetStat {
                name: target.name.clone(),
                manifest: target.manifest.to_string(),
                config: target.config.to_string(),
                layers: layers.collect(),
            },
            parent: dimg.parent().map(|parent| ParentStat {
                manifest: parent.manifest.to_string(),
                layers: parent.layers.iter().map(ToString::to_string).collect(),
            }),
            metadata_bytes: bytes.saturating_sub(dimg.data_bytes()),
            data_bytes: dimg.data_bytes(),
            contents,
            by_codec,
            full_bytes,
            pull_bytes: None,
        })
    }
}
