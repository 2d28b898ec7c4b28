//! What the fuzz targets share: two small real images, tars of several writers, and the layouts of inputs that hold several parts.
//!
//! The targets are in `targets/`, one for each parser. They are built with `--cfg fuzzing` (`hack/fuzz.sh`), under which limits are smaller
//! and checksums of the format are zero. Everything here may panic: in a target that is a finding, in `seeds` a failure.

pub mod images;
pub mod parts;
pub mod tars;

use std::io::{self, Write};

/// Counts bytes and refuses more than a target may make.
#[derive(Debug)]
pub struct Bounded {
    /// Bytes that may still come.
    pub left: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
