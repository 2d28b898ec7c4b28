//! Bits, the least significant first.

use std::io::{self, Write};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 32 << 10;

/// Packs bits into bytes.
pub(super) struct BitWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
    bits: u64,
    count: u32,
}

impl<'a> BitWriter<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER_BYTES + 8), bits: 0, count: 0 }
    }

    /// Adds the lowest `count` bits of `value`, at most 32; the others are zero.
    pub(super) fn put(&mut self, value: u32, count: u32) {
        self.bits |= u64::from(value) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.buffer.extend_from_slice(&self.bits.to_le_bytes()[..4]);
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    /// Adds zero bits up to the next byte.
    pub(super) fn align(&mut self) {
        let bytes = self.count.div_ceil(8) as usize;
        self.buffer.extend_from_slice(&self.bits.to_le_bytes()[..bytes]);
        (self.bits, self.count) = (0, 0);
    }

    /// Writes whole bytes; the bits before are aligned.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.out.write_all(bytes)
    }

    /// Hands on what is collected once it is enough.
    pub(super) fn spill(&mut self) -> io::Result<()> {
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.align();
        self.flush()
    }
}
