//! Images as what deltas start from: their layers read whole, and the file that makes them from nothing.
//!
//! What a delta needs of its base beside contents, the layers' indexes, is only in the layers' tars, so each layer is opened, verified and
//! parsed ([`read_layer`]). [`write()`] makes a base file of an image, its contents hardly compressed: it stays on this machine.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use d4c_sys::Map;
use dimg::build::{self, BuildOptions, Progress, Side, SideLayer};
use dimg::content::{Bytes, ContentSource};
use dimg::engine::compress::Level;
use dimg::format::{DimgError, write_cdimg};
use dimg::index::Content;

use crate::error::SourceError;
use crate::source::OpenImage;
use crate::tar::{self, ParseOptions, ParsedLayer, TarError};

/// Own memory at most, in bytes, while a base file is written.
const MEMORY_BYTES: u64 = 1 << 30;

/// A layer that cannot be read, or a base file that cannot be made of it.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The image cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer's tar is damaged.
    #[error("read layer: {on}: {source}")]
    Layer {
        /// Which, of what image.
        on: String,
        /// What is wrong with it.
        source: TarError,
    },
    /// The file cannot be made.
    #[error("write base file: {0}")]
    Make(#[from] DimgError),
}

/// A layer read whole.
pub struct ReadLayer {
    /// The layer as the builder of deltas takes it.
    pub layer: SideLayer,
    /// Its contents, in its mapped tar.
    pub contents: Arc<dyn ContentSource>,
}

/// Opens and parses layer `number` of an image. Sparse files are expanded into files without names in `dir` when they are asked for.
///
/// # Errors
/// It is damaged or cannot be fetched.
pub fn read_layer(
    open: &OpenImage,
    number: usize,
    threads: NonZeroUsize,
    dir: &Path,
) -> Result<ReadLayer, BaseError> {
    let layer = open.layer(number)?;
    // The source has compared the tar with the diff ID.
    let parse = ParseOptions { threads, diff_id: false, ..ParseOptions::default() };
    let mut parsed = tar::parse(&layer, &parse).map_err(|source| {
        let on = format!("layer {number} of {}", open.name());
        BaseError::Layer { on, source }
    })?;
    let index = Arc::new(std::mem::take(&mut parsed.index));
    let bytes = layer.bytes().clone();
    let side = SideLayer { diff_id: layer.diff_id(), tar_bytes: bytes.len() as u64, index };
    let contents = Arc::new(LayerContents { tar: Bytes::new(bytes), parsed, dir: dir.to_owned() });
    Ok(ReadLayer { layer: side, contents })
}

/// Writes into `file` what makes `open`, whose layers are `side`, from nothing. The file suggests `name` for the image.
///
/// # Errors
/// A content cannot be read, or the file not be written.
pub fn write(
    open: &OpenImage,
    side: &Side<'_>,
    name: String,
    (threads, dir): (NonZeroUsize, PathBuf),
    told: &mut dyn Progress,
    file: &mut File,
) -> Result<(), DimgError> {
    let level = Level::Fast;
    let codec = build::Codec::Store;
    let options = BuildOptions { level, codec, threads, memory_bytes: MEMORY_BYTES, name, dir };
    let mut made = build::build(None, side, &options, told)?;
    let mut writer = BufWriter::with_capacity(256 << 10, file);
    write_cdimg(open.manifest_bytes(), open.config_bytes(), &mut made, level, &mut writer)?;
    writer.flush().map_err(DimgError::Output)
}

/// A layer's tar and where in it each content is.
struct LayerContents {
    tar: Bytes,
    parsed: ParsedLayer,
    dir: PathBuf,
}

impl ContentSource for LayerContents {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        let Some(place) = self.parsed.place(&content.digest) else { return Ok(None) };
        if place.extents.is_none() {
            let range = usize::try_from(place.offset)
                .ok()
                .and_then(|start| Some(start..start.checked_add(usize::try_from(place.content.size).ok()?)?));
            return Ok(range.and_then(|range| self.tar.slice(range)));
        }
        // A sparse file: expanded into a file of its own, where its holes cost nothing.
        let Some(bytes) = place.bytes(&self.tar) else { return Ok(None) };
        let file = tempfile::tempfile_in(&self.dir)?;
        bytes.write_to(&file)?;
        Ok(Some(Bytes::new(Map::file(&file)?)))
    }
}
