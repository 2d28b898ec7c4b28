//! Frames of one bsdiff patch.

use super::{BSDIFF_WINDOW_LOG, Blob, MAX_RAW_BYTES, Parser, READ_BUFFER_BYTES, put_head};
use crate::engine::bsdiff;
use crate::engine::compress::{Kind, Level, pack};
use crate::engine::error::EngineError;
use std::io::{BufReader, Write};

/// A frame of one patch as the crate `bsdiff` makes it.
#[derive(Clone, Copy, Debug)]
pub struct BsdiffFrame<'a> {
    blob: Blob<'a>,
}

impl<'a> BsdiffFrame<'a> {
    /// Reads the head of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let head = parser.head("bsdiff patch", MAX_RAW_BYTES)?;
        let blob = parser.blob(head, BSDIFF_WINDOW_LOG)?;
        parser.finish()?;
        Ok(Self { blob })
    }

    /// Writes the `out_bytes` bytes that the patch makes from `old` to `out`.
    ///
    /// # Errors
    /// Those of [`bsdiff::apply`], and [`EngineError::Corrupt`] and [`EngineError::Limit`] for a damaged frame.
    pub fn apply(&self, old: &[u8], out_bytes: u64, out: &mut dyn Write) -> Result<(), EngineError> {
        EngineError::check_limit(0, "bsdiff patch", self.blob.raw_bytes, bsdiff::max_patch_bytes(out_bytes))?;
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, self.blob.decoder()?);
        bsdiff::apply(&mut reader, old, out_bytes, out)
    }

    /// A frame with this patch.
    ///
    /// # Errors
    /// [`EngineError::Compress`] when a compressor fails.
    pub fn encode(patch: &[u8], level: Level) -> Result<Vec<u8>, EngineError> {
        let packed = pack(&[patch], Kind::Bytes, level, BSDIFF_WINDOW_LOG)?;
        let mut frame = Vec::with_capacity(packed.stored.len() + 16);
        put_head(&mut frame, &packed);
        frame.extend_from_slice(&packed.stored);
        Ok(frame)
    }
}
