//! Objects that have their names before they are flushed.
//!
//! Whoever waits for a content should not wait for the disk. So what is made for readers is flushed later, by [`ObjectStore::sync`],
//! before anything relies on it. After a crash of the machine such an object may have other bytes than its name says: therefore
//! `<root>/unflushed` is there, durably, before the first of them. It has the kernel's boot ID; a store that is opened under another
//! one hashes the objects made since then, and removes what is wrong.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use dimg::Hasher;

use super::{ObjectStore, StoreError};

/// Changes with every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// By so much clocks may have been set back in between.
const CLOCK: Duration = Duration::from_secs(24 * 3600);

/// Whether there may be such objects.
#[derive(Debug)]
pub(super) struct Unflushed {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The file is there.
    marked: bool,
    /// Rounds of naming begun so far, and those that have not ended.
    begun: u64,
    naming: u64,
}

/// While this lives objects get their names.
#[derive(Debug)]
pub(super) struct Naming<'a>(&'a Unflushed);

impl Unflushed {
    pub(super) fn at(root: &Path) -> Self {
        Self { path: root.join("unflushed"), state: Mutex::default() }
    }

    /// Before objects get their names unflushed.
    pub(super) fn begin(&self) -> Result<Naming<'_>, StoreError> {
        let mut state = self.lock();
        if !state.marked {
            let write = || -> io::Result<()> {
                let mut file = File::create(&self.path)?;
                file.write_all(boot_id().as_bytes())?;
                file.sync_all()?;
                File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
            };
            write().map_err(|error| StoreError::io("mark store", &self.path, error))?;
            state.marked = true;
        }
        state.begun += 1;
        state.naming += 1;
        Ok(Naming(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        self.0.lock().naming -= 1;
    }
}

impl ObjectStore {
    /// Flushes the file system of the store: after this, objects made earlier outlive a crash.
    ///
    /// # Errors
    /// Those of `syncfs`.
    pub fn sync(&self) -> Result<(), StoreError> {
        let before = {
            let state = self.unflushed.lock();
            (state.begun, state.naming)
        };
        let objects = self.objects();
        File::open(&objects)
            .and_then(d4c_sys::syncfs)
            .map_err(|error| StoreError::io("flush", objects, error))?;
        let mut state = self.unflushed.lock();
        if state.marked && before == (state.begun, 0) {
            let path = &self.unflushed.path;
            fs::remove_file(path).map_err(|error| StoreError::io("unmark store", path, error))?;
            state.marked = false;
        }
        Ok(())
    }

    /// Looks at what an earlier process left unflushed.
    pub(super) fn check_unflushed(&self) -> Result<(), StoreError> {
        let mark = &self.unflushed.path;
        let looked = fs::read_to_string(mark).and_then(|text| Ok((text, fs::metadata(mark)?.modified()?)));
        let (then, since) = match looked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            looked => looked.map_err(|error| StoreError::io("read mark of store", mark, error))?,
        };
        self.unflushed.lock().marked = true;
        if !then.is_empty() && then == boot_id() {
            return Ok(());
        }
        let since = since.checked_sub(CLOCK).unwrap_or(SystemTime::UNIX_EPOCH);
        let (mut checked, mut wrong) = (0u64, 0u64);
        self.each_object(|object| {
            if object.meta.modified().is_ok_and(|made| made < since) {
                return Ok(());
            }
            checked += 1;
            let hashed =
                hash(&object.path).map_err(|error| StoreError::io("read object", &object.path, error))?;
            if object.digest != Some(hashed) {
                wrong += 1;
                fs::remove_file(&object.path)
                    .map_err(|error| StoreError::io("remove object", &object.path, error))?;
            }
            Ok(())
        })?;
        tracing::info!(
            checked,
            wrong,
            "the machine went down: checked contents that may not have been flushed"
        );
        self.sync()
    }
}

fn hash(path: &Path) -> io::Result<dimg::Digest> {
    let file = File::open(path)?;
    let mut hasher = Hasher::new();
    if file.metadata()?.len() > 0 {
        hasher.update(&d4c_sys::Map::file(&file)?);
    }
    Ok(hasher.finish())
}

/// Empty where the kernel does not tell.
fn boot_id() -> String {
    fs::read_to_string(BOOT_ID).unwrap_or_default()
}
