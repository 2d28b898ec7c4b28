//! Making a delta of two images: which contents are new, what each is made from, and the frames that hold it.
//!
//! Every new content is a job for a worker thread: it finds bases (`names`, and `alike` where these are poor), encodes, and keeps the
//! smallest (`encode`), as it is or with its compressed members opened (`opened`). Small results are joined in groups by what they are
//! (`groups`), so that a thousand changed small files cost like one. The coordinator (`schedule`) admits jobs by the memory that they will
//! take and writes frames in an order that depends on the images alone: the file is the same for any number of threads.

mod alike;
mod archives;
mod encode;
mod groups;
mod names;
mod near;
mod opened;
mod relatives;
mod relocated;
mod schedule;
mod similar;
#[cfg(test)]
pub(crate) mod tests;

use crate::Digest;
use crate::content::ContentSource;
use crate::engine::compress::Level;
use crate::format::{Assembled, DimgError, LayerCheck, LayerSource, Meta, Parent, Target, TargetLayer};
use crate::index::edit::LayerEdit;
use crate::index::{Edit, LayerIndex};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

/// An image as the builder sees it.
pub struct Side<'a> {
    /// Digest of the manifest.
    pub manifest: Digest,
    /// Digest of the config.
    pub config: Digest,
    /// The layers, the lowest first.
    pub layers: &'a [SideLayer],
    /// The contents of all of them.
    pub contents: &'a dyn ContentSource,
}

/// A layer of a [`Side`].
#[derive(Debug, Clone)]
pub struct SideLayer {
    /// SHA-256 of the tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub tar_bytes: u64,
    /// What is in it.
    pub index: Arc<LayerIndex>,
}

/// Which patches are tried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// Plain programs, of executables with addresses moved, of archives opened, where that is smaller.
    #[default]
    Auto,
    /// Plain programs.
    Plain,
    /// Those of the crate `bsdiff`, where its memory suffices; else plain programs.
    Bsdiff,
    /// None: every new content is stored.
    Store,
}

/// How to build.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// How hard to try.
    pub level: Level,
    /// Which patches are tried.
    pub codec: Codec,
    /// Worker threads. The result does not depend on it.
    pub threads: NonZeroUsize,
    /// Own memory at most, in bytes, mapped contents apart. Matchers' indexes are sized by it, so it is part of the result.
    pub memory_bytes: u64,
    /// The name that the file suggests for the image; may be empty.
    pub name: String,
    /// Where frames wait for the end, best the output's folder.
    pub dir: PathBuf,
}

/// Told how far the work is; called from one thread.
pub trait Progress {
    /// So much is to be made.
    fn start(&mut self, contents: u64, bytes: u64) {
        let _ = (contents, bytes);
    }

    /// So much more has been.
    fn advance(&mut self, contents: u64, bytes: u64) {
        let _ = (contents, bytes);
    }
}

/// No one is told.
impl Progress for () {}

/// Builds the dimg that makes `target` from `parent`, or from nothing.
///
/// # Errors
/// A content cannot be read, a limit is exceeded, or the files aside cannot be written.
pub fn build(
    parent: Option<&Side<'_>>,
    target: &Side<'_>,
    options: &BuildOptions,
    progress: &mut dyn Progress,
) -> Result<Assembled, DimgError> {
    let indexes =
        |side: &Side<'_>| side.layers.iter().map(|layer| Arc::clone(&layer.index)).collect::<Vec<_>>();
    let below = parent.map(&indexes).unwrap_or_default();
    let above = indexes(target);
    let edit = Edit::between(&below, &above)?;
    let (writer, recipes) = schedule::run(&edit, &below, &above, parent, target, options, progress)?;
    let meta = meta(&edit, parent, target, &options.name);
    writer.finish(&meta, &edit, &recipes, options.level)
}

fn meta(edit: &Edit, parent: Option<&Side<'_>>, target: &Side<'_>, name: &str) -> Meta {
    let layers = target.layers.iter().zip(&edit.layers).map(|(layer, edited)| TargetLayer {
        diff_id: layer.diff_id,
        entries: layer.index.entries.len() as u64,
        tar_bytes: layer.tar_bytes,
        source: match edited {
            LayerEdit::Same(number) => LayerSource::Parent(*number),
            LayerEdit::Edited(_) => LayerSource::Made { id: LayerCheck::of(&layer.index) },
        },
    });
    let indexes: Vec<_> = target.layers.iter().map(|layer| Arc::clone(&layer.index)).collect();
    Meta {
        target: Target {
            manifest: target.manifest,
            config: target.config,
            name: name.to_owned(),
            contents: crate::format::distinct_contents(&indexes),
            layers: layers.collect(),
        },
        parent: parent.map(|parent| Parent {
            manifest: parent.manifest,
            layers: parent.layers.iter().map(|layer| layer.diff_id).collect(),
        }),
    }
}
