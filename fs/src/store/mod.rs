//! Contents as files.
//!
//! # Layout
//!
//! ```text
//! <root>/lock                 held while a process has the store open
//! <root>/objects/ab/cdef…     one read-only file per content, by the hex digits of its SHA-256
//! <root>/fresh/ab/cdef…       objects made a moment ago, once more (`fresh`); not in a volatile one
//! <root>/staging/<n>.abcdef…  what batch n is making
//! <root>/unflushed            there are objects that may not be on the disk yet (`flush`)
//! ```
//!
//! An object gets its name after all its bytes were hashed, and flushed or marked as not: whatever moment the machine stops at, a file
//! below `objects` is whole and is what its name says once the store is open again (not so of a store that was opened as volatile). Staging is emptied when the store is opened. However many
//! ask for a content at once, one makes it and the others wait.

mod batch;
mod claims;
mod error;
mod files;
mod flush;
mod fresh;
mod gate;
mod readers;
mod remove;
mod room;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use dimg::content::{Bytes, ContentSource};
use dimg::index::Content;
use dimg::memory::Memory;
use nix::fcntl::{Flock, FlockArg};

pub use batch::{Job, Output};
pub use error::StoreError;
pub use files::ObjectFiles;
pub use gate::Hold;
pub use readers::Reading;
pub use remove::{Removed, Until};
pub use room::Room;

/// A store of contents, open in this process alone and shared by its threads.
#[derive(Debug)]
pub struct ObjectStore {
    root: PathBuf,
    files: ObjectFiles,
    fresh: Option<fresh::Fresh>,
    claims: claims::Claims,
    gate: Arc<gate::Gate>,
    counters: Counters,
    next_batch: AtomicU64,
    readers: readers::Readers,
    room: OnceLock<Arc<dyn Room>>,
    measured: Mutex<Option<room::Measured>>,
    unflushed: flush::Unflushed,
    /// Whether objects are flushed before they get their names.
    durable: bool,
    /// For making contents.
    memory: OnceLock<Arc<Memory>>,
    _lock: Flock<File>,
}

/// What a store did since it was opened.
#[derive(Debug, Default)]
struct Counters {
    made: AtomicU64,
    made_bytes: AtomicU64,
    reused: AtomicU64,
    removed: AtomicU64,
    removed_bytes: AtomicU64,
    failed: AtomicU64,
}

/// A reading of a store's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Contents made.
    pub made: u64,
    /// Their bytes.
    pub made_bytes: u64,
    /// Contents wanted that were there already.
    pub reused: u64,
    /// Contents removed.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Opens of contents that could not be made.
    pub failed: u64,
}

impl ObjectStore {
    /// Opens the store at `root`, made when it is not there, and removes what an earlier process left half made.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or a failed system call.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_as(root, true, true)
    }

    /// As [`ObjectStore::open`], of a store that need not outlive a crash of the machine: objects are not flushed, which
    /// makes a small one in a fraction of the time. After such a crash the store must be removed.
    ///
    /// # Errors
    /// As for [`ObjectStore::open`].
    pub fn open_volatile(root: &Path) -> Result<Self, StoreError> {
        Self::open_as(root, false, false)
    }

    /// As [`ObjectStore::open_volatile`], where asked for with second names as [`ObjectStore::open`]: for a trial.
    pub(crate) fn open_trial(root: &Path, fresh: bool) -> Result<Self, StoreError> {
        Self::open_as(root, false, fresh)
    }

    fn open_as(root: &Path, durable: bool, fresh: bool) -> Result<Self, StoreError> {
        let make = |path: &Path| {
            fs::create_dir_all(path).map_err(|error| StoreError::io("make directory", path, error))
        };
        make(root)?;
        let lock_path = root.join("lock");
        let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|error| StoreError::io("open", &lock_path, error))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StoreError::InUse { root: root.to_owned() },
            errno => StoreError::io("lock", &lock_path, errno.into()),
        })?;
        make(&root.join("objects"))?;
        let staging = root.join("staging");
        match fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove what was half made", &staging, error));
            }
            _ => make(&staging)?,
        }
        let store = Self {
            root: root.to_owned(),
            files: ObjectFiles::at(root.join("objects")),
            fresh: fresh.then(|| fresh::Fresh::below(root)).transpose()?,
            claims: claims::Claims::default(),
            gate: Arc::default(),
            counters: Counters::default(),
            next_batch: AtomicU64::new(0),
            readers: readers::Readers::default(),
            room: OnceLock::new(),
            measured: Mutex::default(),
            unflushed: flush::Unflushed::at(root),
            durable,
            memory: OnceLock::new(),
            _lock: lock,
        };
        store.forget_fresh()?;
        store.check_unflushed()?;
        Ok(store)
    }

    /// Has contents made within `memory`. Only the first call counts, and none after the first content.
    pub fn share_memory(&self, memory: Arc<Memory>) {
        drop(self.memory.set(memory));
    }

    /// What those who make contents for this store share ([`dimg::format::Dimg::share_memory`]).
    pub fn memory(&self) -> &Arc<Memory> {
        self.memory.get_or_init(Arc::default)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that objects are in, as `ab/cdef…`.
    pub fn objects(&self) -> PathBuf {
        self.root.join("objects")
    }

    /// Where contents are written before they have their names.
    fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Where the object of `content` is or would be.
    pub fn path(&self, content: &Content) -> PathBuf {
        self.files.path(content)
    }

    /// The object, open for reading; `None` when the store does not have it. One of a wrong size, which only a damaged file
    /// system has, counts as missing and is made again.
    ///
    /// # Errors
    /// It is there but cannot be opened.
    pub fn get(&self, content: &Content) -> Result<Option<File>, StoreError> {
        self.files.get(content)
    }

    /// Whether the store has the object.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn has(&self, content: &Content) -> Result<bool, StoreError> {
        let path = self.path(content);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_file() && meta.len() == content.size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("look at object", path, error)),
        }
    }

    /// Keeps [`ObjectStore::remove_unreferenced`] from running until the hold is dropped: taken before contents are looked
    /// for or made, dropped after what refers to them is recorded. Waits while objects are being removed.
    pub fn hold(&self) -> Hold {
        self.gate.hold()
    }

    /// Says, until it is dropped, that someone waits for a content.
    pub fn reading(&self) -> Reading<'_> {
        self.readers.begin()
    }

    /// Waits until no one has waited for a content for a moment, `most` at the longest: for work that can wait. Whether that
    /// moment came.
    pub fn let_readers_go_first(&self, most: Duration) -> bool {
        self.readers.let_go_first(most)
    }

    /// The counters as they are now.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { made, made_bytes, reused, removed, removed_bytes, failed } = &self.counters;
        Counts {
            made: read(made),
            made_bytes: read(made_bytes),
            reused: read(reused),
            removed: read(removed),
            removed_bytes: read(removed_bytes),
            failed: read(failed),
        }
    }
}

impl ContentSource for ObjectStore {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        self.files.open(content)
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        self.files.file(content)
    }
}

#[cfg(test)]
mod tests;
