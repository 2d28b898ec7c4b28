//! A blob on its way into a file, which a later process goes on with.
//!
//! Bytes stand where they do in the blob. Behind them, from the next multiple of 4096, are two records of which are there (`ranges`), written in turns: bytes are made durable
//! before a record claims them, and of a record that was being written when the power went the other one is left. When all bytes are there the
//! records are cut off, and the file is the blob. It is not made durable then: a file without records is one that may be whole, which its digest tells.
//!
//! Whoever writes one has it locked. A lock ends with its process, however that ends.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use d4c_sys::Map;
use dimg::Digest;

use super::ranges::{Ranges, SLOT_BYTES};
use crate::error::SourceError;

const SLOT: u64 = SLOT_BYTES as u64;

/// A file that a blob is downloaded into.
#[derive(Debug)]
pub struct Partial {
    shared: Arc<Shared>,
    /// None: the file is the caller's, and nothing is recorded.
    path: Option<PathBuf>,
    /// Whether it is left for a later process.
    kept: bool,
}

/// What a record that is being written needs, though the download may have ended meanwhile.
#[derive(Debug)]
pub(crate) struct Shared {
    file: File,
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    there: Ranges,
    recorded: Ranges,
    /// Of the last record.
    number: u64,
    /// There are no more records.
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the records stand.
    fn records(&self) -> u64 {
        self.size.saturating_add(SLOT - 1) / SLOT * SLOT
    }

    pub(crate) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        self.lock().there.add(at..at.saturating_add(bytes.len() as u64));
        Ok(())
    }

    /// Makes durable what is there, then says so.
    pub(crate) fn record(&self) -> io::Result<()> {
        let there = {
            let state = self.lock();
            if state.closed || state.there == state.recorded {
                return Ok(());
            }
            state.there.clone()
        };
        self.file.sync_data()?;
        let mut state = self.lock();
        if state.closed {
            return Ok(());
        }
        let number = state.number + 1;
        let slot = there.record(number, self.size);
        self.file.write_all_at(&slot, self.records().saturating_add(number % 2 * SLOT))?;
        (state.number, state.recorded) = (number, there);
        Ok(())
    }
}

impl Partial {
    /// A file of the caller's, empty.
    pub fn unkept(file: File) -> Self {
        let shared = Shared { file, size: 0, state: Mutex::default() };
        Self { shared: Arc::new(shared), path: None, kept: false }
    }

    /// The file at `path`, locked, with what it has of a blob of `size` bytes.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of(file: File, path: PathBuf, size: u64, kept: bool) -> Result<Self, SourceError> {
        let failed = || SourceError::io("read partial download", &path);
        let bytes = file.metadata().map_err(failed())?.len();
        let mut state = State::default();
        let mut shared = Shared { file, size, state: Mutex::default() };
        if bytes == size {
            state.there = Ranges::front(size);
        } else if let Some((number, of, there)) = last_record(&shared.file).map_err(failed())?
            && of == size
        {
            state = State { recorded: there.clone(), there, number, closed: false };
        } else if bytes > 0 {
            shared.file.set_len(0).map_err(SourceError::io("write partial download", &path))?;
        }
        shared.state = Mutex::new(state);
        Ok(Self { shared: Arc::new(shared), path: Some(path), kept })
    }

    /// The file. Once the download has ended it is the blob, if the digest is its.
    pub fn file(&self) -> &File {
        &self.shared.file
    }

    /// Its name; none where it is the caller's.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Its bytes, and their digest.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn digest(&self) -> Result<(Map, Digest), SourceError> {
        let map = Map::file(self.file()).map_err(SourceError::io("map file", self.shown()))?;
        map.advise_sequential();
        let digest = Digest::of(&map);
        Ok((map, digest))
    }

    /// Removes the file: it was used, or is wrong.
    pub fn remove(mut self) {
        self.kept = false;
    }

    /// The same, of a blob of `size` bytes.
    pub(super) fn sized(mut self, size: u64) -> Self {
        if self.path.is_none()
            && let Some(shared) = Arc::get_mut(&mut self.shared)
        {
            shared.size = size;
        }
        self
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn shown(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new("temporary file"))
    }

    pub(crate) fn size(&self) -> u64 {
        self.shared.size
    }

    /// Whether a later process may go on with it.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    pub(super) fn there(&self) -> u64 {
        self.shared.lock().there.bytes()
    }

    pub(crate) fn missing(&self) -> VecDeque<Range<u64>> {
        self.shared.lock().there.missing(self.shared.size)
    }

    /// Forgets all bytes.
    pub(super) fn clear(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        *state = State::default();
        self.shared.file.set_len(0)?;
        // What was claimed is not to come back.
        if self.kept { self.shared.file.sync_all() } else { Ok(()) }
    }

    /// All bytes are there: makes the file the blob.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.shared.lock().closed = true;
        if self.path.is_some() { self.shared.file.set_len(self.shared.size) } else { Ok(()) }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let is_empty = self.there() == 0 && self.size() > 0;
        if let Some(path) = self.path.as_deref().filter(|_| !self.kept || is_empty) {
            // While it is locked, so that nobody else's is removed.
            let _ = fs::remove_file(path);
        }
    }
}

/// The last whole record of a file.
pub(super) fn last_record(file: &File) -> io::Result<Option<(u64, u64, Ranges)>> {
    let bytes = file.metadata()?.len();
    let Some(start) = bytes.checked_sub(2 * SLOT) else { return Ok(None) };
    let mut slots = [0; 2 * SLOT_BYTES];
    file.read_exact_at(&mut slots, start)?;
    Ok(slots.chunks(SLOT_BYTES).filter_map(Ranges::of_record).max_by_key(|(number, ..)| *number))
}

/// Whether `path` is this very file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let of = |meta: fs::Metadata| (meta.dev(), meta.ino());
    file.metadata().ok().map(of) == fs::symlink_metadata(path).ok().map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_records_the_last_whole_one_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sha256-x.part");
        let open = || {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            Partial::of(file, path.clone(), 10_000, true).unwrap()
        };
        let partial = open();
        let write = |at: u64| {
            partial.shared().write(&[7; 100], at).unwrap();
            partial.shared().record().unwrap();
        };
        write(0);
        write(9900);
        // Written, but not recorded.
        partial.shared().write(&[5; 100], 500).unwrap();
        let file = partial.file().try_clone().unwrap();
        drop(partial);
        let partial = open();
        assert_eq!(partial.missing(), [Range { start: 100, end: 9900 }]);
        drop(partial);
        assert_eq!(file.metadata().unwrap().len(), 12288 + 8192);
        // The second is in the first slot.
        file.write_all_at(b"torn", 12288 + 100).unwrap();
        let partial = open();
        assert_eq!(partial.missing(), [Range { start: 100, end: 10_000 }]);
        partial.shared().write(&[1; 9900], 100).unwrap();
        partial.close().unwrap();
        // One that was about to be written comes too late.
        partial.shared().record().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 10_000);
        drop(partial);
        let partial = open();
        assert_eq!(partial.there(), 10_000);
        partial.clear().unwrap();
        assert_eq!((partial.there(), file.metadata().unwrap().len()), (0, 0));
        drop(partial);
        assert!(!path.exists(), "nothing is kept of nothing");
    }
}
