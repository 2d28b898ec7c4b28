//! How much the objects take, and how much room there is for more.

use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{Counts, ObjectStore, StoreError};

/// Told of space by a store: whoever knows what can be made again.
pub trait Room: Debug + Send + Sync {
    /// Contents were made. Does not wait.
    fn grown(&self);

    /// The disk was full when a content of `bytes` was to be made for someone who waits for it. Whether anything was removed
    /// that can be made again.
    fn full(&self, bytes: u64) -> bool;
}

/// What all objects took when they were last looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    bytes: u64,
    /// The counters of then.
    made_bytes: u64,
    removed_bytes: u64,
}

impl Measured {
    fn now(&self, counts: Counts) -> u64 {
        let made = counts.made_bytes.saturating_sub(self.made_bytes);
        let removed = counts.removed_bytes.saturating_sub(self.removed_bytes);
        self.bytes.saturating_add(made).saturating_sub(removed)
    }
}

impl ObjectStore {
    /// Tells `room` of space from now on; only the first is told.
    pub fn set_room(&self, room: Arc<dyn Room>) {
        drop(self.room.set(room));
    }

    /// After a content was made.
    pub(super) fn grown(&self) {
        if let Some(room) = self.room.get() {
            room.grown();
        }
    }

    /// After a content of `bytes` found no space: whether anything was removed.
    pub(crate) fn make_room(&self, bytes: u64) -> bool {
        self.room.get().is_some_and(|room| room.full(bytes))
    }

    /// Whether as much is free.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.disk_bytes().is_ok_and(|(free, _)| free >= bytes)
    }

    /// Counts an open that failed.
    pub(crate) fn note_failed(&self) {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of all objects. The first call looks at each of them.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let then = match *measured {
            Some(measured) => measured,
            None => {
                let then = self.measured(0);
                let mut bytes = 0u64;
                self.each_object(|object| {
                    bytes = bytes.saturating_add(object.bytes());
                    Ok(())
                })?;
                *measured.insert(Measured { bytes, ..then })
            }
        };
        Ok(then.now(self.counts()))
    }

    /// As [`ObjectStore::bytes`], but without looking; none before something has looked.
    pub fn known_bytes(&self) -> Option<u64> {
        let measured = *self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        measured.map(|then| then.now(self.counts()))
    }

    /// Notes what all objects take now.
    pub(super) fn measure(&self, bytes: u64) {
        *self.measured.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.measured(bytes));
    }

    fn measured(&self, bytes: u64) -> Measured {
        let counts = self.counts();
        Measured { bytes, made_bytes: counts.made_bytes, removed_bytes: counts.removed_bytes }
    }

    /// Bytes of the store's file system: what is free to us, and all.
    ///
    /// # Errors
    /// Those of `statvfs`.
    pub fn disk_bytes(&self) -> Result<(u64, u64), StoreError> {
        let stat = d4c_sys::statvfs(&self.root)
            .map_err(|error| StoreError::io("look at free space of", &self.root, error))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}
