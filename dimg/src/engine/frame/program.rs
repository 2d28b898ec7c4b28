//! Frames of programs.

use super::{
    Blob, MAX_RAW_BYTES, MAX_SLOTS, PROGRAM_GROUP_BYTES, Parser, READ_BUFFER_BYTES, put_head,
    stream_window_log,
};
use crate::engine::compress::{Decoder, Kind, Level, Packed, pack};
use crate::engine::error::EngineError;
use crate::engine::parallel::map;
use crate::engine::program::{Program, STREAMS, StreamKind, apply, layout_memory, skip_program};
use crate::engine::varint;
use std::cmp::Reverse;
use std::io::{self, BufRead, BufReader, Read, Write};

const COUNTS: &str = "op counts";

/// The window of the op counts, which are at most ten bytes per slot.
const COUNTS_WINDOW_LOG: u32 = 20;

/// A frame of one program of any size, or of several small ones.
#[derive(Clone, Debug)]
pub struct ProgramFrame<'a> {
    /// The operations of each slot.
    counts: Vec<u64>,
    streams: [Blob<'a>; STREAMS],
}

impl<'a> ProgramFrame<'a> {
    /// Reads the heads and op counts of a frame.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] and [`EngineError::Limit`] for a frame that is not as [`super`] says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, EngineError> {
        let mut parser = Parser::new(frame);
        let slots = parser.slots(1)?;
        let counts_head = parser.head(COUNTS, slots * varint::MAX_VARINT_BYTES as u64)?;
        let heads_offset = parser.offset();
        let mut heads = Vec::with_capacity(STREAMS);
        for kind in StreamKind::ALL {
            heads.push(parser.head(kind.name(), MAX_RAW_BYTES)?);
        }
        if slots > 1 {
            let raw_bytes = counts_head.raw_bytes + heads.iter().map(|head| head.raw_bytes).sum::<u64>();
            EngineError::check_limit(heads_offset, "group", raw_bytes, PROGRAM_GROUP_BYTES)?;
        }
        let counts_blob = parser.blob(counts_head, COUNTS_WINDOW_LOG)?;
        let mut blobs = Vec::with_capacity(STREAMS);
        for (kind, head) in StreamKind::ALL.into_iter().zip(heads) {
            blobs.push(parser.blob(head, stream_window_log(kind))?);
        }
        parser.finish()?;
        let streams =
            blobs.try_into().map_err(|_| EngineError::corrupt(heads_offset, "streams", "not seven"))?;
        let counts = read_counts(&counts_blob, slots)?;
        Ok(Self { counts, streams })
    }

    /// The number of programs.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The length of all streams when decoded.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.streams.iter().map(|blob| blob.raw_bytes).sum()
    }

    /// Writes the `out_bytes` bytes that the program of `slot` makes from `old` to `out`.
    ///
    /// The only slot of a frame is streamed; a group is decoded first: whoever wants several of its slots keeps it
    /// ([`ProgramFrame::group`]).
    ///
    /// # Errors
    /// Those of [`apply`], [`EngineError::NoSlot`], and [`EngineError::Corrupt`] for damaged streams.
    pub fn apply_slot(
        &self,
        slot: u64,
        old: &[u8],
        out_bytes: u64,
        out: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let [ops] = self.counts[..] else {
            return self.group()?.apply_slot(slot, old, out_bytes, out);
        };
        if slot != 0 {
            return Err(EngineError::NoSlot { slot, slots: 1 });
        }
        self.check_counts(ops, out_bytes)?;
        let mut readers = self.readers()?;
        apply(&mut readers, ops, old, out_bytes, out).map_err(|error| self.place(error))?;
        for (reader, blob) in readers.iter_mut().zip(&self.streams) {
            if !reader.fill_buf().map_err(|error| blob.error(&error))?.is_empty() {
                return Err(EngineError::corrupt(
                    blob.offset,
                    blob.part,
                    "bytes after the end of the program",
                ));
            }
        }
        Ok(())
    }

    /// Decodes a group, or a single program of at most [`PROGRAM_GROUP_BYTES`].
    ///
    /// # Errors
    /// [`EngineError::Limit`] for a larger program, [`EngineError::Corrupt`] for damaged streams.
    pub fn group(&self) -> Result<ProgramGroup, EngineError> {
        EngineError::check_limit(self.streams[0].offset, "group", self.raw_bytes(), PROGRAM_GROUP_BYTES)?;
        let mut streams: [Vec<u8>; STREAMS] = Default::default();
        for (stream, blob) in streams.iter_mut().zip(&self.streams) {
            *stream = blob.decode()?;
        }
        let mut rest = streams.each_ref().map(Vec::as_slice);
        let mut starts = Vec::with_capacity(self.counts.len() + 1);
        let place = |rest: &[&[u8]; STREAMS]| {
            let mut start = [0u32; STREAMS];
            for ((start, stream), rest) in start.iter_mut().zip(&streams).zip(rest) {
                // Below PROGRAM_GROUP_BYTES.
                *start = u32::try_from(stream.len() - rest.len()).unwrap_or(u32::MAX);
            }
            start
        };
        for &ops in &self.counts {
            starts.push(place(&rest));
            skip_program(&mut rest, ops).map_err(|error| self.place(error))?;
        }
        starts.push(place(&rest));
        if let Some((_, blob)) = rest.iter().zip(&self.streams).find(|(rest, _)| !rest.is_empty()) {
            return Err(EngineError::corrupt(
                blob.offset,
                blob.part,
                "bytes after the end of the last program",
            ));
        }
        Ok(ProgramGroup { counts: self.counts.clone(), streams, starts })
    }

    /// The program of the only slot, in memory, for composing it.
    ///
    /// # Errors
    /// [`EngineError::NoSlot`] when there are several, [`EngineError::Limit`] when the streams are longer than `limit` bytes,
    /// [`EngineError::Corrupt`] when they are damaged.
    pub fn program(&self, out_bytes: u64, limit: u64) -> Result<Program, EngineError> {
        self.program_on(out_bytes, limit, 1)
    }

    /// As [`ProgramFrame::program`], with so many threads.
    pub(crate) fn program_on(
        &self,
        out_bytes: u64,
        limit: u64,
        threads: usize,
    ) -> Result<Program, EngineError> {
        let [ops] = self.counts[..] else {
            return Err(EngineError::NoSlot { slot: 0, slots: self.slots() });
        };
        EngineError::check_limit(self.streams[0].offset, "program", self.raw_bytes(), limit)?;
        let mut program = Program { ops, out_bytes, ..Program::default() };
        let decoded =
            for_each_stream(threads, |at| self.streams[at].stored.len(), |at| self.streams[at].decode())?;
        program.streams = decoded;
        Ok(program)
    }

    /// The memory of having the only program of this frame decoded and laid out for composing.
    pub(crate) fn compose_memory(&self) -> u64 {
        let ops = self.counts.iter().fold(0u64, |all, ops| all.saturating_add(*ops));
        let runs = self.streams[StreamKind::NonzeroRuns.index()].raw_bytes;
        layout_memory(ops, runs).saturating_add(self.raw_bytes())
    }

    /// A frame with these programs, a slot each.
    ///
    /// # Errors
    /// [`EngineError::Limit`] for too many programs, or several that are longer than [`PROGRAM_GROUP_BYTES`] together;
    /// [`EngineError::Compress`] when a compressor fails.
    pub fn encode(programs: &[&Program], level: Level) -> Result<Vec<u8>, EngineError> {
        Self::encode_on(programs, level, 1)
    }

    /// As [`ProgramFrame::encode`], with so many threads; the frame is the same.
    pub(crate) fn encode_on(
        programs: &[&Program],
        level: Level,
        threads: usize,
    ) -> Result<Vec<u8>, EngineError> {
        let slots = programs.len() as u64;
        EngineError::check_limit(0, "slots", slots, MAX_SLOTS)?;
        let mut counts = Vec::new();
        for program in programs {
            varint::put(&mut counts, program.ops);
        }
        if slots > 1 {
            let raw_bytes =
                counts.len() as u64 + programs.iter().map(|program| program.raw_bytes()).sum::<u64>();
            EngineError::check_limit(0, "group", raw_bytes, PROGRAM_GROUP_BYTES)?;
        }
        let mut blobs: Vec<Packed> = vec![pack(&[&counts], Kind::Numbers, level, COUNTS_WINDOW_LOG)?];
        let length = |at: usize| programs.iter().map(|program| program.streams[at].len()).sum();
        blobs.extend(for_each_stream(threads, length, |at| {
            let kind = StreamKind::ALL[at];
            let parts: Vec<&[u8]> = programs.iter().map(|program| program.stream(kind)).collect();
            pack(&parts, packing_kind(kind), level, stream_window_log(kind))
        })?);
        let mut frame = Vec::new();
        varint::put(&mut frame, slots);
        for blob in &blobs {
            put_head(&mut frame, blob);
        }
        for blob in &blobs {
            frame.extend_from_slice(&blob.stored);
        }
        Ok(frame)
    }

    fn readers(&self) -> Result<[StreamReader<'a>; STREAMS], EngineError> {
        let mut readers = Vec::with_capacity(STREAMS);
        for blob in &self.streams {
            let decoder = blob.decoder()?;
            let capacity = usize::try_from(blob.raw_bytes).unwrap_or(usize::MAX).clamp(1, READ_BUFFER_BYTES);
            readers.push(BufReader::with_capacity(capacity, decoder));
        }
        readers.try_into().map_err(|_| EngineError::corrupt(0, "streams", "not seven"))
    }

    /// Every operation makes at least one byte and takes at most so many bytes of each stream of numbers.
    fn check_counts(&self, ops: u64, out_bytes: u64) -> Result<(), EngineError> {
        EngineError::check_limit(0, COUNTS, ops, out_bytes)?;
        for kind in [StreamKind::Nonzero, StreamKind::Inserted] {
            let blob = &self.streams[kind.index()];
            EngineError::check_limit(blob.offset, blob.part, blob.raw_bytes, out_bytes)?;
        }
        Ok(())
    }

    /// Says where in the frame a stream is that a program could not read.
    fn place(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::Stream { stream, reason } => {
                let blob = &self.streams[stream.index()];
                EngineError::Corrupt { offset: blob.offset, part: blob.part, reason }
            }
            other => other,
        }
    }
}

/// What `work` makes of each stream, by its number: with so many threads, the streams that `length` says are long first.
fn for_each_stream<T: Send>(
    threads: usize,
    length: impl Fn(usize) -> usize,
    work: impl Fn(usize) -> Result<T, EngineError> + Sync,
) -> Result<[T; STREAMS], EngineError> {
    let mut order: [usize; STREAMS] = std::array::from_fn(|at| at);
    order.sort_by_key(|&at| Reverse(length(at)));
    let mut made: [Option<T>; STREAMS] = std::array::from_fn(|_| None);
    for (at, result) in order.into_iter().zip(map(threads, STREAMS, |number| work(order[number]))) {
        made[at] = Some(result?);
    }
    let made: Vec<T> = made.into_iter().flatten().collect();
    made.try_into().map_err(|_| EngineError::corrupt(0, "streams", "not seven"))
}

type StreamReader<'a> = BufReader<Decoder<'a>>;

fn packing_kind(kind: StreamKind) -> Kind {
    match kind {
        StreamKind::Nonzero => Kind::Bytes,
        StreamKind::Inserted => Kind::Content,
        _ => Kind::Numbers,
    }
}

fn read_counts(blob: &Blob<'_>, slots: u64) -> Result<Vec<u64>, EngineError> {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, blob.decoder()?);
    let mut counts = Vec::new();
    for _ in 0..slots {
        counts.push(varint::read(&mut reader).map_err(|error| blob.error(&error))?);
    }
    let mut extra = [0u8; 1];
    if reader.read(&mut extra).map_err(|error: io::Error| blob.error(&error))? > 0 {
        return Err(EngineError::corrupt(blob.offset, blob.part, "more of them than slots"));
    }
    Ok(counts)
}

/// A decoded group: its slots can be applied in any order.
#[derive(Clone, Debug)]
pub struct ProgramGroup {
    counts: Vec<u64>,
    streams: [Vec<u8>; STREAMS],
    /// Where each slot starts in each stream, and where the last one ends.
    starts: Vec<[u32; STREAMS]>,
}

impl ProgramGroup {
    /// The number of programs.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The memory it takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let streams: usize = self.streams.iter().map(Vec::capacity).sum();
        (streams + self.counts.len() * 8 + self.starts.len() * STREAMS * 4) as u64
    }

    /// Writes the `out_bytes` bytes that the program of `slot` makes from `old` to `out`.
    ///
    /// # Errors
    /// Those of [`apply`], and [`EngineError::NoSlot`].
    pub fn apply_slot(
        &self,
        slot: u64,
        old: &[u8],
        out_bytes: u64,
        out: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let (mut readers, ops) = self.slot(slot)?;
        apply(&mut readers, ops, old, out_bytes, out)
    }

    /// The program of a slot, for composing it.
    ///
    /// # Errors
    /// [`EngineError::NoSlot`].
    pub fn program(&self, slot: u64, out_bytes: u64) -> Result<Program, EngineError> {
        let (readers, ops) = self.slot(slot)?;
        Ok(Program { ops, out_bytes, streams: readers.map(<[u8]>::to_vec) })
    }

    fn slot(&self, slot: u64) -> Result<([&[u8]; STREAMS], u64), EngineError> {
        let missing = || EngineError::NoSlot { slot, slots: self.slots() };
        let index = usize::try_from(slot).map_err(|_| missing())?;
        let &ops = self.counts.get(index).ok_or_else(missing)?;
        let (starts, ends) = self.starts.get(index).zip(self.starts.get(index + 1)).ok_or_else(missing)?;
        let mut readers = [&[][..]; STREAMS];
        for (kind, reader) in StreamKind::ALL.into_iter().zip(&mut readers) {
            let at = kind.index();
            let range = starts[at] as usize..ends[at] as usize;
            *reader = self.streams[at].get(range).ok_or_else(missing)?;
        }
        Ok((readers, ops))
    }
}
