//! Frames of address maps.

use super::{Blob, MAX_SLOTS, PROGRAM_GROUP_BYTES, Parser, put_head};
use crate::engine::compress::{Kind, Level, pack};
use crate::engine::elf::{AddressMap, MAX_MAP_BYTES, MAX_SEGMENTS};
use crate::engine::error::EngineError;
use crate::engine::varint;

const PART: &str = "address maps";

/// The window of the blob.
const WINDOW_LOG: u32 = 22;

/// A frame of one address map, or of several small ones.
#[derive(Clone, Copy, Debug)]
pub struct RelocationFrame<'a> {
    slots: u64,
    blob: Blob<'a>,
}

impl<'a> RelocationFrame<'a> {
    /// Raw bytes of several maps, at most.
    pub const GROUP_BYTES: u64 = PROGRAM_GROUP_BYTES;

    /// Reads the head of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let slots = parser.slots(1)?;
        let limit = if slots == 1 { MAX_MAP_BYTES as u64 } else { Self::GROUP_BYTES };
        let head = parser.head(PART, limit)?;
        let blob = parser.blob(head, WINDOW_LOG)?;
        parser.finish()?;
        Ok(Self { slots, blob })
    }

    /// The number of maps.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.slots
    }

    /// The maps, at most [`MAX_SEGMENTS`] segments in all.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when they are damaged, [`EngineError::Limit`] when they have too many segments.
    pub fn decode(&self) -> Result<Vec<AddressMap>, EngineError> {
        let raw = self.blob.decode()?;
        let mut rest = &raw[..];
        let mut maps = Vec::new();
        let mut segments = 0;
        for _ in 0..self.slots {
            let map = AddressMap::decode(&mut rest)
                .map_err(|error| EngineError::corrupt(self.blob.offset, PART, error.to_string()))?;
            segments += map.segments();
            EngineError::check_limit(self.blob.offset, "segments", segments as u64, MAX_SEGMENTS as u64)?;
            maps.push(map);
        }
        if !rest.is_empty() {
            return Err(EngineError::corrupt(self.blob.offset, PART, "bytes after the last of them"));
        }
        Ok(maps)
    }

    /// A frame with these maps, a slot each.
    ///
    /// # Errors
    /// [`EngineError::Limit`] for too many, or several that are longer than [`RelocationFrame::GROUP_BYTES`] together;
    /// [`EngineError::Compress`] when a compressor fails.
    pub fn encode(maps: &[&AddressMap], level: Level) -> Result<Vec<u8>, EngineError> {
        let slots = maps.len() as u64;
        EngineError::check_limit(0, "slots", slots, MAX_SLOTS)?;
        let segments = maps.iter().map(|map| map.segments() as u64).sum();
        EngineError::check_limit(0, "segments", segments, MAX_SEGMENTS as u64)?;
        let mut raw = Vec::new();
        maps.iter().for_each(|map| map.encode(&mut raw));
        if slots > 1 {
            EngineError::check_limit(0, PART, raw.len() as u64, Self::GROUP_BYTES)?;
        }
        let packed = pack(&[&raw], Kind::Numbers, level, WINDOW_LOG)?;
        let mut frame = Vec::with_capacity(packed.stored.len() + 16);
        varint::put(&mut frame, slots);
        put_head(&mut frame, &packed);
        frame.extend_from_slice(&packed.stored);
        Ok(frame)
    }
}
