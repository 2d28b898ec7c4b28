//! Runs a program.

use super::walk::{Run, stream_error};
use super::{RunReader, STREAMS, StreamKind, read_number};
use crate::engine::error::EngineError;
use std::io::{BufRead, Write};

/// The output buffer: one write per this many bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Runs of up to so many zero and other differences, which are most, are made without a loop: as many bytes are written, those too
/// many written over by what follows.
const SHORT_ZEROS: usize = 32;
const SHORT_NONZEROS: usize = 8;

/// Makes the new content: runs `ops` operations from `streams` over `old` and writes exactly `out_bytes` bytes to `out`.
///
/// Memory of its own is one buffer; the readers bring theirs. Reads each stream to the end of the program and not further, so that
/// the next program of a group can follow.
///
/// # Errors
/// [`EngineError::Stream`] for a stream that is damaged or ends too early, [`EngineError::Program`] for a copy outside of `old` or
/// an output that is not `out_bytes` long, [`EngineError::Output`] for a failed write. Output may have been written by then.
pub fn apply<R: BufRead>(
    streams: &mut [R; STREAMS],
    ops: u64,
    old: &[u8],
    out_bytes: u64,
    out: &mut dyn Write,
) -> Result<(), EngineError> {
    let capacity = usize::try_from(out_bytes).unwrap_or(usize::MAX).min(BUFFER_BYTES);
    let mut output = Output { buffer: vec![0; capacity], filled: 0, out };
    let mut runs = RunReader::default();
    let mut position = 0u64;
    let mut left = out_bytes;
    for op in 0..ops {
        let add = read_number(streams, StreamKind::AddLengths)?;
        let insert = read_number(streams, StreamKind::InsertLengths)?;
        let seek = crate::engine::varint::unzigzag(read_number(streams, StreamKind::Seeks)?);
        if add == 0 && insert == 0 {
            return Err(EngineError::program(op, "it makes nothing"));
        }
        let start = position
            .checked_add_signed(seek)
            .filter(|&start| start <= old.len() as u64)
            .ok_or_else(|| EngineError::program(op, "it seeks outside of the old content"))?;
        let end = start.checked_add(add).filter(|&end| end <= old.len() as u64);
        let end =
            end.ok_or_else(|| EngineError::program(op, "it copies beyond the end of the old content"))?;
        left = left
            .checked_sub(add)
            .and_then(|left| left.checked_sub(insert))
            .ok_or_else(|| EngineError::program(op, "it makes more than the length of the new content"))?;
        // All are at most old.len(), a usize.
        let source = old.get(index(start)..).unwrap_or_default();
        output.add(streams, &mut runs, source, index(add))?;
        output.insert(&mut streams[StreamKind::Inserted.index()], insert)?;
        position = end;
    }
    runs.finish()?;
    if left > 0 {
        return Err(EngineError::program(ops, "the program ends before the new content does"));
    }
    output.flush()
}

struct Output<'o> {
    buffer: Vec<u8>,
    filled: usize,
    out: &'o mut dyn Write,
}

impl Output<'_> {
    fn flush(&mut self) -> Result<(), EngineError> {
        self.out.write_all(&self.buffer[..self.filled]).map_err(EngineError::Output)?;
        self.filled = 0;
        Ok(())
    }

    /// The free part of the buffer, never empty.
    fn space(&mut self) -> Result<&mut [u8], EngineError> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// Copies the first `left` bytes of `source` with the next differences added.
    fn add<R: BufRead>(
        &mut self,
        streams: &mut [R; STREAMS],
        runs: &mut RunReader,
        mut source: &[u8],
        mut left: usize,
    ) -> Result<(), EngineError> {
        while left > 0 {
            let count = match runs.next(streams, left as u64)? {
                Run::Zero(count) => {
                    let count = index(count);
                    match (
                        self.buffer[self.filled..].first_chunk_mut::<SHORT_ZEROS>(),
                        source.first_chunk::<SHORT_ZEROS>(),
                    ) {
                        (Some(made), Some(old)) if count <= SHORT_ZEROS => {
                            *made = *old;
                            self.filled += count;
                        }
                        _ => self.copy(&source[..count])?,
                    }
                    count
                }
                Run::Nonzero(count) => {
                    let count = index(count);
                    let reader = &mut streams[StreamKind::Nonzero.index()];
                    let differences = fill(reader, StreamKind::Nonzero)?;
                    match (
                        self.buffer[self.filled..].first_chunk_mut::<SHORT_NONZEROS>(),
                        source.first_chunk::<SHORT_NONZEROS>(),
                        differences.first_chunk::<SHORT_NONZEROS>(),
                    ) {
                        (Some(made), Some(old), Some(differences)) if count <= SHORT_NONZEROS => {
                            *made = std::array::from_fn(|at| old[at].wrapping_add(differences[at]));
                            self.filled += count;
                            reader.consume(count);
                        }
                        _ => self.add_all(reader, &source[..count])?,
                    }
                    count
                }
            };
            source = &source[count..];
            left -= count;
        }
        Ok(())
    }

    /// Copies bytes with as many differences added.
    fn add_all<R: BufRead>(&mut self, reader: &mut R, mut changed: &[u8]) -> Result<(), EngineError> {
        while !changed.is_empty() {
            let differences = fill(reader, StreamKind::Nonzero)?;
            let space = self.space()?;
            let count = differences.len().min(changed.len()).min(space.len());
            for ((made, old), difference) in space[..count].iter_mut().zip(changed).zip(differences) {
                *made = old.wrapping_add(*difference);
            }
            self.filled += count;
            changed = &changed[count..];
            reader.consume(count);
        }
        Ok(())
    }

    fn copy(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn insert<R: BufRead>(&mut self, reader: &mut R, mut left: u64) -> Result<(), EngineError> {
        while left > 0 {
            let bytes = fill(reader, StreamKind::Inserted)?;
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            self.copy(&bytes[..count])?;
            reader.consume(count);
            left -= count as u64;
        }
        Ok(())
    }
}

/// A length that is known to be within a slice.
fn index(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn fill<R: BufRead>(reader: &mut R, kind: StreamKind) -> Result<&[u8], EngineError> {
    match reader.fill_buf() {
        Ok([]) => Err(EngineError::Stream { stream: kind, reason: "the stream ends too early".into() }),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(stream_error(kind, &error)),
    }
}
