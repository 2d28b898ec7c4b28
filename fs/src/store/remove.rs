//! Removing what nothing refers to.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
        let referenced = referenced()?;
        let mut removed = Removed::default();
        let objects = self.root.join("objects");
        for fan in read_dir(&objects)? {
            let fan = fan.map_err(|error| StoreError::io("read directory", &objects, error))?;
            let (directory, fan_name) = (fan.path(), fan.file_name());
            for object in read_dir(&directory)? {
                let object = object.map_err(|error| StoreError::io("read directory", &directory, error))?;
                let name = [fan_name.as_bytes(), object.file_name().as_bytes()].concat();
                if digest(&name).is_some_and(|digest| referenced.contains(&digest)) {
                    continue;
                }
                let path = object.path();
                let bytes = object.metadata().map_or(0, |meta| meta.len());
                match fs::remove_file(&path) {
                    Ok(()) => {
                        removed.objects += 1;
                        removed.bytes += bytes;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(StoreError::io("remove object", path, error).into()),
                }
            }
        }
        self.counters.removed.fetch_add(removed.objects, Ordering::Relaxed);
        self.counters.removed_bytes.fetch_add(removed.bytes, Ordering::Relaxed);
        Ok(Some(removed))
    }
}

fn read_dir(path: &Path) -> Result<fs::ReadDir, StoreError> {
    fs::read_dir(path).map_err(|error| StoreError::io("read directory", path, error))
}

fn digest(hex: &[u8]) -> Option<Digest> {
    format!("sha256:{}", std::str::from_utf8(hex).ok()?).parse().ok()
}
