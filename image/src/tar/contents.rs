//! Where a layer's contents are in its tar, and reading them from there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use dimg::index::{Content, Extent};
use dimg::{Digest, Hasher};

/// Zeros for hashing holes.
const ZEROS: &[u8; 64 << 10] = &[0; 64 << 10];

/// The place of a content in a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentPlace {
    /// Which content.
    pub content: Content,
    /// Offset in the tar of the first byte of data.
    pub offset: u64,
    /// For a sparse member, the runs that follow each other from `offset` on; else the content is there in one piece.
    pub extents: Option<Box<[Extent]>>,
}

impl ContentPlace {
    /// Bytes of data in the tar.
    pub fn data_bytes(&self) -> u64 {
        self.extents
            .as_ref()
            .map_or(self.content.size, |extents| extents.iter().map(|extent| extent.bytes).sum())
    }

    /// The content within `tar`, which must be the tar that was parsed; `None` when it is shorter.
    pub fn bytes<'t>(&'t self, tar: &'t [u8]) -> Option<ContentBytes<'t>> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.data_bytes()).ok()?)?;
        let data = tar.get(start..end)?;
        Some(match &self.extents {
            None => ContentBytes::Whole(data),
            Some(extents) => ContentBytes::Sparse { data, extents, size: self.content.size },
        })
    }
}

/// A content's bytes in a mapped tar.
#[derive(Debug, Clone, Copy)]
pub enum ContentBytes<'t> {
    /// In one piece.
    Whole(&'t [u8]),
    /// A sparse file.
    Sparse {
        /// The data of all runs.
        data: &'t [u8],
        /// Where the runs belong in the file.
        extents: &'t [Extent],
        /// Size in bytes of the file.
        size: u64,
    },
}

impl<'t> ContentBytes<'t> {
    /// A reader of the file, holes expanded to zeros.
    pub fn reader(self) -> ContentReader<'t> {
        match self {
            Self::Whole(data) => {
                ContentReader { data, extents: &[], size: data.len() as u64, at: 0, whole: true }
            }
            Self::Sparse { data, extents, size } => {
                ContentReader { data, extents, size, at: 0, whole: false }
            }
        }
    }

    /// Writes the file into `file`, which is empty; holes stay holes.
    ///
    /// # Errors
    /// Those of the system calls.
    pub fn write_to(self, file: &File) -> io::Result<()> {
        let mut reader = self.reader();
        file.set_len(reader.size)?;
        let mut at = 0;
        while let Some(piece) = reader.piece(u64::MAX) {
            if let Piece::Data(data) = piece {
                file.write_all_at(data, at)?;
            }
            at = reader.at;
        }
        Ok(())
    }

    /// SHA-256 of the file.
    pub fn digest(self) -> Digest {
        let mut hasher = Hasher::new();
        let mut reader = self.reader();
        while let Some(piece) = reader.piece(u64::MAX) {
            match piece {
                Piece::Data(data) => hasher.update(data),
                Piece::Zeros(mut count) => {
                    while count > 0 {
                        let now = count.min(ZEROS.len() as u64);
                        hasher.update(&ZEROS[..usize::try_from(now).unwrap_or(ZEROS.len())]);
                        count -= now;
                    }
                }
            }
        }
        hasher.finish()
    }
}

/// Reads a file out of a mapped tar.
#[derive(Debug, Clone)]
pub struct ContentReader<'t> {
    data: &'t [u8],
    extents: &'t [Extent],
    size: u64,
    at: u64,
    whole: bool,
}

enum Piece<'t> {
    Data(&'t [u8]),
    Zeros(u64),
}

impl<'t> ContentReader<'t> {
    /// The next bytes, at most `most`, and those as one piece; `None` at the end.
    fn piece(&mut self, most: u64) -> Option<Piece<'t>> {
        // Runs that are used up; empty ones mark nothing but a place.
        while let [first, rest @ ..] = self.extents
            && first.offset + first.bytes <= self.at
        {
            self.extents = rest;
        }
        let left = (self.size - self.at).min(most);
        if left == 0 {
            return None;
        }
        let (hole, run) = match self.extents {
            _ if self.whole => (0, left),
            [] => (left, 0),
            [run, ..] if run.offset > self.at => ((run.offset - self.at).min(left), 0),
            [run, ..] => (0, (run.offset + run.bytes - self.at).min(left)),
        };
        self.at += hole + run;
        if hole > 0 {
            return Some(Piece::Zeros(hole));
        }
        let (piece, rest) = self.data.split_at_checked(usize::try_from(run).ok()?)?;
        self.data = rest;
        Some(Piece::Data(piece))
    }
}

impl Read for ContentReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(match self.piece(buffer.len() as u64) {
            None => 0,
            Some(Piece::Data(data)) => {
                buffer[..data.len()].copy_from_slice(data);
                data.len()
            }
            Some(Piece::Zeros(count)) => {
                let count = usize::try_from(count).unwrap_or(buffer.len()).min(buffer.len());
                buffer[..count].fill(0);
                count
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_take_no_room() {
        let extents = [(1 << 30, 1)].map(|(offset, bytes)| Extent { offset, bytes });
        let bytes = ContentBytes::Sparse { data: b"x", extents: &extents, size: 2 << 30 };
        let written = tempfile::tempfile().unwrap();
        bytes.write_to(&written).unwrap();
        let meta = written.metadata().unwrap();
        assert!(meta.len() == 2 << 30 && meta.blocks() < 1 << 10, "{meta:?}");
    }

    #[test]
    fn holes_are_expanded() {
        let extents = [(1, 2), (3, 0), (5, 1), (8, 0)].map(|(offset, bytes)| Extent { offset, bytes });
        let bytes = ContentBytes::Sparse { data: b"abc", extents: &extents, size: 8 };
        let mut file = Vec::new();
        bytes.reader().read_to_end(&mut file).unwrap();
        assert_eq!(file, b"\0ab\0\0c\0\0");
        assert_eq!(bytes.digest(), Digest::of(&file));
        let written = tempfile::NamedTempFile::new().unwrap();
        bytes.write_to(written.as_file()).unwrap();
        assert_eq!(std::fs::read(written.path()).unwrap(), file);
        assert_eq!(ContentBytes::Whole(b"xy").digest(), Digest::of(b"xy"));
    }
}
