//! Images as what deltas start from: their layers read whole, and the file that makes them from nothing.
//!
//! What a delta needs of its base beside contents, the layers' indexes, is only in the layers' tars, so each layer is opened, verified and
//! parsed ([`ReadLayers`](crate::layers::ReadLayers)). [`write()`] makes a base file of an image, its contents hardly compressed: it stays on
//! this machine.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use dimg::build::{self, BuildOptions, Progress, Side};
use dimg::engine::compress::Level;
use dimg::format::{DimgError, write_cdimg};

use crate::source::OpenImage;

/// Own memory at most, in bytes, while a base file is written.
const MEMORY_BYTES: u64 = 1 << 30;

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
