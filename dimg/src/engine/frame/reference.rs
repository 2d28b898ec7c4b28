//! Frames of a content that was compressed behind another one.

use super::{Blob, MAX_REFERENCE_BYTES, Parser, put_head};
use crate::engine::compress::{Codec, Decoder, Level, pack_after};
use crate::engine::error::EngineError;
use std::io::{Read, Write};

/// A frame of one content, compressed with its base in the dictionary: for an edited text, and for a content that is no edited copy but
/// shares words with it.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceFrame<'a> {
    blob: Blob<'a>,
}

impl<'a> ReferenceFrame<'a> {
    /// Reads the head of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let head = parser.head("reference", MAX_REFERENCE_BYTES)?;
        if head.codec != Codec::Lzma2 {
            return Err(EngineError::corrupt(0, "reference", "its codec is not LZMA2"));
        }
        let blob = parser.blob(head, 0)?;
        parser.finish()?;
        Ok(Self { blob })
    }

    /// Writes the `out_bytes` bytes that it holds, of which `old` is the base, to `out`.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] for a damaged frame or one of other bytes, [`EngineError::Output`].
    pub fn apply(&self, old: &[u8], out_bytes: u64, out: &mut dyn Write) -> Result<(), EngineError> {
        let Blob { stored, raw_bytes, offset, part, .. } = self.blob;
        if raw_bytes != out_bytes {
            let reason = format!("it has {raw_bytes} bytes, not {out_bytes}");
            return Err(EngineError::corrupt(offset, part, reason));
        }
        let mut decoder = Decoder::after(old, stored, raw_bytes).map_err(|error| self.blob.error(&error))?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match decoder.read(&mut buffer).map_err(|error| self.blob.error(&error))? {
                0 => return Ok(()),
                count => out.write_all(&buffer[..count]).map_err(EngineError::Output)?,
            }
        }
    }

    /// A frame with `new`; none when that cannot be, or not with a compressor.
    ///
    /// # Errors
    /// [`EngineError::Compress`] when the compressor fails.
    pub fn encode(old: &[u8], new: &[u8], level: Level) -> Result<Option<Vec<u8>>, EngineError> {
        let Some(packed) = pack_after(old, new, level)? else { return Ok(None) };
        let mut frame = Vec::with_capacity(packed.stored.len() + 16);
        put_head(&mut frame, &packed);
        frame.extend_from_slice(&packed.stored);
        Ok(Some(frame))
    }
}
