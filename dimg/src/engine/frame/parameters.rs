//! Frames of the parameters of packing.

use super::{Blob, MAX_SLOTS, Parser, STORED_CHUNK_BYTES, STORED_WINDOW_LOG, put_head};
use crate::engine::compress::{Kind, Level, pack};
use crate::engine::error::EngineError;
use crate::engine::varint;

/// The window of the lengths.
const LENGTHS_WINDOW_LOG: u32 = 20;
/// Raw bytes of the parameters of a frame, at most.
pub const PARAMETER_GROUP_BYTES: u64 = STORED_CHUNK_BYTES;

/// A frame of the parameters of one content or several ([`crate::engine::member`]).
#[derive(Clone, Copy, Debug)]
pub struct ParameterFrame<'a> {
    slots: u64,
    lengths: Blob<'a>,
    parameters: Blob<'a>,
}

impl<'a> ParameterFrame<'a> {
    /// Reads the heads of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let slots = parser.slots(0)?;
        let lengths = parser.head("lengths", slots * varint::MAX_VARINT_BYTES as u64)?;
        let parameters = parser.head("parameters", PARAMETER_GROUP_BYTES)?;
        let lengths = parser.blob(lengths, LENGTHS_WINDOW_LOG)?;
        let parameters = parser.blob(parameters, STORED_WINDOW_LOG)?;
        parser.finish()?;
        Ok(Self { slots, lengths, parameters })
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when it is damaged.
    pub fn group(&self) -> Result<ParameterGroup, EngineError> {
        let encoded = self.lengths.decode()?;
        let bytes = self.parameters.decode()?;
        let (mut rest, mut end, mut ends) = (&encoded[..], 0usize, Vec::new());
        let damaged =
            |reason: &'static str| EngineError::corrupt(self.lengths.offset, self.lengths.part, reason);
        for _ in 0..self.slots {
            let length = varint::take(&mut rest).and_then(|length| usize::try_from(length).ok());
            end = length
                .and_then(|length| end.checked_add(length))
                .filter(|end| *end <= bytes.len())
                .ok_or_else(|| damaged("the parameters are shorter"))?;
            ends.push(end);
        }
        if !rest.is_empty() || end != bytes.len() {
            return Err(damaged("bytes after the last one"));
        }
        Ok(ParameterGroup { ends, bytes })
    }

    /// A frame with these parameters, a slot each.
    ///
    /// # Errors
    /// [`EngineError::Limit`] when they are too many or longer than [`PARAMETER_GROUP_BYTES`] together,
    /// [`EngineError::Compress`] when a compressor fails.
    pub fn encode(parameters: &[&[u8]], level: Level) -> Result<Vec<u8>, EngineError> {
        let slots = parameters.len() as u64;
        EngineError::check_limit(0, "slots", slots, MAX_SLOTS)?;
        let raw_bytes = parameters.iter().map(|item| item.len() as u64).sum();
        EngineError::check_limit(0, "parameters", raw_bytes, PARAMETER_GROUP_BYTES)?;
        let mut lengths = Vec::new();
        for item in parameters {
            varint::put(&mut lengths, item.len() as u64);
        }
        let lengths = pack(&[&lengths], Kind::Numbers, level, LENGTHS_WINDOW_LOG)?;
        let bytes = pack(parameters, Kind::Bytes, level, STORED_WINDOW_LOG)?;
        let mut frame = Vec::new();
        varint::put(&mut frame, slots);
        put_head(&mut frame, &lengths);
        put_head(&mut frame, &bytes);
        frame.extend_from_slice(&lengths.stored);
        frame.extend_from_slice(&bytes.stored);
        Ok(frame)
    }
}

/// A decoded frame of parameters.
#[derive(Clone, Debug)]
pub struct ParameterGroup {
    /// Where the parameters of each slot end.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl ParameterGroup {
    /// The memory it takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        (self.ends.capacity() * size_of::<usize>() + self.bytes.capacity()) as u64
    }

    /// The parameters of a slot.
    ///
    /// # Errors
    /// [`EngineError::NoSlot`].
    pub fn parameters(&self, slot: u64) -> Result<&[u8], EngineError> {
        let missing = || EngineError::NoSlot { slot, slots: self.ends.len() as u64 };
        let at = usize::try_from(slot).map_err(|_| missing())?;
        let end = *self.ends.get(at).ok_or_else(missing)?;
        let start = if at == 0 { 0 } else { self.ends.get(at - 1).copied().unwrap_or(0) };
        self.bytes.get(start..end).ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_and_damage_is_told() {
        let parameters: Vec<Vec<u8>> =
            (0..2000u32).map(|slot| vec![1, if slot % 7 == 0 { 22 } else { 25 }]).collect();
        let slices: Vec<&[u8]> = parameters.iter().map(Vec::as_slice).collect();
        for level in [Level::Fast, Level::Default] {
            let frame = ParameterFrame::encode(&slices, level).unwrap();
            assert!(frame.len() < 100, "{}", frame.len());
            let group = ParameterFrame::parse(&frame).unwrap().group().unwrap();
            assert!((0..2000).all(|slot| group.parameters(slot as u64).unwrap() == slices[slot]));
            assert!(matches!(group.parameters(2000), Err(EngineError::NoSlot { slots: 2000, .. })));
            for at in 0..frame.len() {
                let _ = ParameterFrame::parse(&frame[..at]).map(|frame| frame.group().unwrap_err());
            }
        }
        let empty = ParameterFrame::encode(&[b"", b"x"], Level::Fast).unwrap();
        let group = ParameterFrame::parse(&empty).unwrap().group().unwrap();
        assert_eq!((group.parameters(0).unwrap(), group.parameters(1).unwrap()), (&b""[..], &b"x"[..]));
        // One slot more than lengths, one byte more than they say.
        assert!(ParameterFrame::parse(&[2, 1 << 3, 1 << 3, 1, 9]).unwrap().group().is_err());
        assert!(ParameterFrame::parse(&[1, 1 << 3, 2 << 3, 1, 9, 9]).unwrap().group().is_err());
        assert!(ParameterFrame::parse(&[1, 1 << 3, 1 << 3, 2, 9]).unwrap().group().is_err());
    }
}
