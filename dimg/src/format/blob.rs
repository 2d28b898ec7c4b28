//! Compressed blobs of documents and columns (`FORMAT.md`, section 6), whole in memory.

use crate::engine::compress::{Codec, Decoder};
use std::io::{self, Read};

/// Window of the compressors, as a power of two.
pub(crate) const WINDOW_LOG: u32 = 23;

/// The `raw_bytes` bytes that `stored` holds. The caller has held `raw_bytes` against a limit; memory is taken as bytes
/// come.
///
/// # Errors
/// The blob is damaged, or gives another number of bytes.
pub(crate) fn unpack(codec: Codec, stored: &[u8], raw_bytes: u64) -> io::Result<Vec<u8>> {
    let mut raw = Vec::new();
    Decoder::new(codec, stored, raw_bytes, WINDOW_LOG)?.read_to_end(&mut raw)?;
    Ok(raw)
}
