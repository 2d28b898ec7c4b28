//! Removing what nothing refers to, and what can be made again.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use dimg::Digest;

use super::{ObjectStore, StoreError};

/// What a removal took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far [`ObjectStore::evict`] goes: both must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// The objects have at most so many bytes.
    pub keep_bytes: u64,
    /// The file system has so many free.
    pub free_bytes: u64,
}

impl ObjectStore {
    /// Removes every object but those that `referenced` names. It is asked once no one holds the store: what it reads is not
    /// older than the last recorded reference. `None` when someone holds the store: nothing was removed, try later.
    ///
    /// # Errors
    /// Those of `referenced`, or a failed system call; objects removed before that stay removed.
    pub fn remove_unreferenced<E: From<StoreError>>(
        &self,
        referenced: impl FnOnce() -> Result<HashSet<Digest>, E>,
    ) -> Result<Option<Removed>, E> {
        let Some(_removal) = self.gate.try_remove() else { return Ok(None) };
        self.forget_fresh()?;
        let referenced = referenced()?;
        let mut removed = Removed::default();
        self.each_object(|object| {
            if object.digest.is_some_and(|digest| referenced.contains(&digest)) {
                return Ok(());
            }
            self.remove(&object.path, object.meta.len(), &mut removed)
        })?;
        Ok(Some(removed))
    }

    /// Removes objects that `evictable` names, the oldest first, until what is left is `until`. It is asked as with
    /// [`ObjectStore::remove_unreferenced`]. What was removed, and the bytes that the store has then, which are more when there are
    /// not enough of them; `None` when someone holds the store: try later.
    ///
    /// Files that are open stay readable, but their bytes are not free before they are closed.
    ///
    /// # Errors
    /// Those of `evictable`, or a failed system call; objects removed before that stay removed.
    pub fn evict<E: From<StoreError>>(
        &self,
        evictable: impl FnOnce() -> Result<HashSet<Digest>, E>,
        until: Until,
    ) -> Result<Option<(Removed, u64)>, E> {
        let Some(_removal) = self.gate.try_remove() else { return Ok(None) };
        self.forget_fresh()?;
        let evictable = evictable()?;
        let (mut left, mut candidates) = (0u64, Vec::new());
        self.each_object(|object| {
            let bytes = object.bytes();
            left = left.saturating_add(bytes);
            if object.digest.is_some_and(|digest| evictable.contains(&digest)) {
                candidates.push((object.meta.modified().ok(), object.path, bytes));
            }
            Ok(())
        })?;
        candidates.sort_unstable();
        let mut removed = Removed::default();
        for (_, path, bytes) in candidates {
            if left <= until.keep_bytes && (until.free_bytes == 0 || self.disk_bytes()?.0 >= until.free_bytes)
            {
                break;
            }
            self.remove(&path, bytes, &mut removed)?;
            left = left.saturating_sub(bytes);
        }
        self.measure(left);
        Ok(Some((removed, left)))
    }

    pub(super) fn each_object(
        &self,
        mut see: impl FnMut(Object) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let objects = self.objects();
        for fan in read_dir(&objects)? {
            let fan = fan.map_err(|error| StoreError::io("read directory", &objects, error))?;
            let (directory, fan_name) = (fan.path(), fan.file_name());
            for object in read_dir(&directory)? {
                let object = object.map_err(|error| StoreError::io("read directory", &directory, error))?;
                let name = [fan_name.as_bytes(), object.file_name().as_bytes()].concat();
                let path = object.path();
                let meta = match object.metadata() {
                    // Swept meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    meta => meta.map_err(|error| StoreError::io("look at object", &path, error))?,
                };
                see(Object { digest: digest(&name), path, meta })?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path, bytes: u64, removed: &mut Removed) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Ok(()) => {
                removed.objects += 1;
                removed.bytes += bytes;
                self.counters.removed.fetch_add(1, Ordering::Relaxed);
                self.counters.removed_bytes.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::io("remove object", path, error)),
        }
    }
}

/// A file below `objects`.
pub(super) struct Object {
    /// None of one whose name is no digest.
    pub(super) digest: Option<Digest>,
    pub(super) path: PathBuf,
    pub(super) meta: fs::Metadata,
}

impl Object {
    pub(super) fn bytes(&self) -> u64 {
        self.meta.len()
    }
}

fn read_dir(path: &Path) -> Result<fs::ReadDir, StoreError> {
    fs::read_dir(path).map_err(|error| StoreError::io("read directory", path, error))
}

fn digest(hex: &[u8]) -> Option<Digest> {
    format!("sha256:{}", std::str::from_utf8(hex).ok()?).parse().ok()
}
