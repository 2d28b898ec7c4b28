//! Files with holes.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

/// Zeros are looked for in blocks of so many bytes.
const BLOCK_BYTES: usize = 4 << 10;
/// A run of zeros of so many bytes becomes a hole; shorter ones would cost more in extents than they save.
const HOLE_BYTES: u64 = 64 << 10;

/// Writes to a file at its offset, long runs of zeros as holes: what is there already must not be overwritten with it. The file has its
/// length only after [`Sparse::finish`].
#[derive(Debug)]
pub struct Sparse<F: Borrow<File>> {
    file: F,
    /// Zeros that are not in the file yet.
    zeros: u64,
}

impl<F: Borrow<File>> Sparse<F> {
    /// Writes to `file`, which is empty from its offset on.
    pub fn new(file: F) -> Self {
        Self { file, zeros: 0 }
    }

    /// The file, all of it written.
    ///
    /// # Errors
    /// Those of the calls made.
    pub fn finish(mut self) -> io::Result<F> {
        let ends_in_a_hole = self.zeros >= HOLE_BYTES;
        self.put_zeros()?;
        let mut file: &File = self.file.borrow();
        if ends_in_a_hole {
            file.set_len(file.stream_position()?)?;
        }
        Ok(self.file)
    }

    fn put_zeros(&mut self) -> io::Result<()> {
        let mut file: &File = self.file.borrow();
        let mut zeros = std::mem::take(&mut self.zeros);
        if zeros >= HOLE_BYTES {
            let by = i64::try_from(zeros).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
            file.seek(SeekFrom::Current(by))?;
            return Ok(());
        }
        while zeros > 0 {
            let block = usize::try_from(zeros).map_or(BLOCK_BYTES, |zeros| zeros.min(BLOCK_BYTES));
            file.write_all(&[0; BLOCK_BYTES][..block])?;
            zeros -= block as u64;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.put_zeros()?;
        let mut file: &File = self.file.borrow();
        file.write_all(bytes)
    }
}

impl<F: Borrow<File>> Write for Sparse<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut start = 0;
        let blocks = bytes.chunks_exact(BLOCK_BYTES).enumerate();
        for (number, _) in blocks.filter(|(_, block)| is_zero(block)) {
            let at = number * BLOCK_BYTES;
            self.put(&bytes[start..at])?;
            self.zeros += BLOCK_BYTES as u64;
            start = at + BLOCK_BYTES;
        }
        self.put(&bytes[start..])?;
        Ok(bytes.len())
    }

    /// What it keeps back is no more than [`Sparse::finish`] writes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Most blocks that are not show it at once.
fn is_zero(block: &[u8]) -> bool {
    block.chunks(256).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn long_runs_of_zeros_are_holes_and_all_bytes_are_there() {
        const MIB: usize = 1 << 20;
        let mut bytes = vec![7u8; 5 * MIB + 3];
        bytes[100..2 * MIB].fill(0);
        bytes[3 * MIB..3 * MIB + 20_000].fill(0);
        bytes[4 * MIB..].fill(0);
        for piece in [1000, 4096, 65_536, 100_000, bytes.len()] {
            let mut sparse = Sparse::new(tempfile::tempfile().unwrap());
            bytes.chunks(piece).for_each(|piece| sparse.write_all(piece).unwrap());
            let file = sparse.finish().unwrap();
            let mut read = vec![1; bytes.len()];
            file.read_exact_at(&mut read, 0).unwrap();
            let meta = file.metadata().unwrap();
            assert!(read == bytes && meta.len() == bytes.len() as u64, "{piece}");
            if piece > BLOCK_BYTES {
                assert!(meta.blocks() * 512 < 3 * MIB as u64, "{piece}: {} blocks", meta.blocks());
            }
        }
        assert_eq!(Sparse::new(tempfile::tempfile().unwrap()).finish().unwrap().metadata().unwrap().len(), 0);
    }
}
