//! Inflating streams whose ends are not known.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use std::io::{self, Write};

/// What was inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inflated {
    /// Bytes of the stream.
    pub(super) deflated: u64,
    pub(super) inflated: u64,
    pub(super) crc: u32,
}

/// Why there is nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not a whole stream of at most so many bytes.
    NotOne,
    Output(io::Error),
}

/// Inflates one stream after the other.
pub(super) struct Inflater {
    state: Decompress,
    buffer: Vec<u8>,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { state: Decompress::new(false), buffer: vec![0; 64 << 10] }
    }

    /// Inflates the stream that `input` begins with, at most `limit` bytes, to `out`. `spent` grows by how many bytes came, also of
    /// a stream that turns out to be none, and then by those that it took too: nothing may come of very many.
    pub(super) fn inflate(
        &mut self,
        input: &[u8],
        limit: u64,
        spent: &mut u64,
        out: &mut dyn Write,
    ) -> Result<Inflated, Failure> {
        self.state.reset(false);
        // Of what is not to give anything, what it gives is not asked for: it could be a whole buffer for each of many.
        let room = if limit == 0 { 1 } else { self.buffer.len() };
        let result = run(&mut self.state, &mut self.buffer[..room], input, limit, out);
        *spent = spent.saturating_add(self.state.total_out());
        if result.is_err() {
            *spent = spent.saturating_add(self.state.total_in());
        }
        result
    }
}

fn run(
    state: &mut Decompress,
    buffer: &mut [u8],
    input: &[u8],
    limit: u64,
    out: &mut dyn Write,
) -> Result<Inflated, Failure> {
    let mut crc = Crc::new();
    loop {
        let consumed = usize::try_from(state.total_in()).unwrap_or(usize::MAX);
        let rest = input.get(consumed..).unwrap_or_default();
        let before = state.total_out();
        let status = state.decompress(rest, buffer, FlushDecompress::None);
        let count = state.total_out() - before;
        let (Ok(status), Ok(made)) = (status, usize::try_from(count)) else { return Err(Failure::NotOne) };
        if state.total_out() > limit {
            return Err(Failure::NotOne);
        }
        let made = buffer.get(..made).unwrap_or_default();
        crc.update(made);
        out.write_all(made).map_err(Failure::Output)?;
        match status {
            Status::StreamEnd => {
                return Ok(Inflated {
                    deflated: state.total_in(),
                    inflated: state.total_out(),
                    crc: crc.sum(),
                });
            }
            // Neither took nor gave anything: the input ends before the stream.
            _ if count == 0 && state.total_in() == consumed as u64 => return Err(Failure::NotOne),
            _ => {}
        }
    }
}
