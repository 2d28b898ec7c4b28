//! Reading the streams of a program: numbers, and the runs of its differences.

use super::{STREAMS, StreamKind};
use crate::engine::error::EngineError;
use crate::engine::varint;
use std::io::BufRead;

/// Reads the next number of a stream.
#[inline]
pub(crate) fn read_number<R: BufRead>(
    streams: &mut [R; STREAMS],
    kind: StreamKind,
) -> Result<u64, EngineError> {
    varint::read(&mut streams[kind.index()]).map_err(|error| stream_error(kind, &error))
}

pub(crate) fn stream_error(kind: StreamKind, error: &std::io::Error) -> EngineError {
    EngineError::Stream { stream: kind, reason: error.to_string().into() }
}

/// A run of differences, or a part of one.
pub(crate) enum Run {
    Zero(u64),
    Nonzero(u64),
}

/// Hands out the runs of a program's differences.
#[derive(Debug, Default)]
pub(crate) struct RunReader {
    zeros: u64,
    nonzeros: u64,
    /// Whether a zero run was read, so that a nonzero run is next.
    nonzero_next: bool,
    started: bool,
}

impl RunReader {
    /// The next piece of a run, at most `limit` differences, which is not 0.
    #[inline]
    pub(crate) fn next<R: BufRead>(
        &mut self,
        streams: &mut [R; STREAMS],
        limit: u64,
    ) -> Result<Run, EngineError> {
        loop {
            if self.zeros > 0 {
                let count = self.zeros.min(limit);
                self.zeros -= count;
                return Ok(Run::Zero(count));
            }
            if self.nonzeros > 0 {
                let count = self.nonzeros.min(limit);
                self.nonzeros -= count;
                return Ok(Run::Nonzero(count));
            }
            let kind = if self.nonzero_next { StreamKind::NonzeroRuns } else { StreamKind::ZeroRuns };
            let length = read_number(streams, kind)?;
            if length == 0 && self.started {
                return Err(EngineError::Stream { stream: kind, reason: "an empty run".into() });
            }
            self.started = true;
            if self.nonzero_next {
                self.nonzeros = length;
            } else {
                self.zeros = length;
            }
            self.nonzero_next = !self.nonzero_next;
        }
    }

    /// Checks that the runs end with the program.
    pub(crate) fn finish(&self) -> Result<(), EngineError> {
        for (left, stream) in [(self.zeros, StreamKind::ZeroRuns), (self.nonzeros, StreamKind::NonzeroRuns)] {
            if left > 0 {
                return Err(EngineError::Stream {
                    stream,
                    reason: "a run is longer than the program".into(),
                });
            }
        }
        Ok(())
    }
}

/// Moves `streams` past a program of `ops` operations. What it skips is checked as far as it has to be read.
pub(crate) fn skip_program(streams: &mut [&[u8]; STREAMS], ops: u64) -> Result<(), EngineError> {
    let (mut adds, mut inserts) = (0u64, 0u64);
    for op in 0..ops {
        let overflow = || EngineError::program(op, "the lengths overflow");
        let add = read_number(streams, StreamKind::AddLengths)?;
        let insert = read_number(streams, StreamKind::InsertLengths)?;
        read_number(streams, StreamKind::Seeks)?;
        adds = adds.checked_add(add).ok_or_else(overflow)?;
        inserts = inserts.checked_add(insert).ok_or_else(overflow)?;
    }
    let mut runs = RunReader::default();
    let mut nonzeros = 0u64;
    let mut left = adds;
    while left > 0 {
        match runs.next(streams, left)? {
            Run::Zero(count) => left -= count,
            Run::Nonzero(count) => {
                nonzeros += count;
                left -= count;
            }
        }
    }
    runs.finish()?;
    for (kind, count) in [(StreamKind::Nonzero, nonzeros), (StreamKind::Inserted, inserts)] {
        let stream = &mut streams[kind.index()];
        let rest = usize::try_from(count).ok().and_then(|count| stream.get(count..));
        *stream = rest.ok_or_else(|| EngineError::Stream {
            stream: kind,
            reason: "the stream ends too early".into(),
        })?;
    }
    Ok(())
}
