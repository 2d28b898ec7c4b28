//! Frames of stored bytes.

use super::{Blob, Parser, STORED_CHUNK_BYTES, STORED_WINDOW_LOG, put_head};
use crate::engine::compress::{Decoder, Kind, Level, pack};
use crate::engine::error::EngineError;

/// A frame of stored bytes: small contents one after the other, or a chunk of a large one.
#[derive(Clone, Copy, Debug)]
pub struct StoredFrame<'a> {
    blob: Blob<'a>,
}

impl<'a> StoredFrame<'a> {
    /// Reads the head of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let head = parser.head("stored bytes", STORED_CHUNK_BYTES)?;
        let blob = parser.blob(head, STORED_WINDOW_LOG)?;
        parser.finish()?;
        Ok(Self { blob })
    }

    /// The length of the contents in it.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.blob.raw_bytes
    }

    /// The contents in it, as a stream.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when the compressed data cannot be decoded within its limits; the stream gives errors of kind
    /// `InvalidData` for damage further on.
    pub fn reader(&self) -> Result<Decoder<'a>, EngineError> {
        self.blob.decoder()
    }

    /// The contents in it, at most [`STORED_CHUNK_BYTES`].
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when the compressed data is damaged.
    pub fn decode(&self) -> Result<Vec<u8>, EngineError> {
        self.blob.decode()
    }

    /// A frame with the concatenation of `parts`, which are at most [`STORED_CHUNK_BYTES`] together.
    ///
    /// # Errors
    /// [`EngineError::Limit`] when they are more, [`EngineError::Compress`] when a compressor fails.
    pub fn encode(parts: &[&[u8]], level: Level) -> Result<Vec<u8>, EngineError> {
        let raw_bytes = parts.iter().map(|part| part.len() as u64).sum();
        EngineError::check_limit(0, "stored bytes", raw_bytes, STORED_CHUNK_BYTES)?;
        let packed = pack(parts, Kind::Content, level, STORED_WINDOW_LOG)?;
        let mut frame = Vec::with_capacity(packed.stored.len() + 16);
        put_head(&mut frame, &packed);
        frame.extend_from_slice(&packed.stored);
        Ok(frame)
    }
}
