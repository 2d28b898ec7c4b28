//! Who is making which content.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dimg::Digest;

/// Contents that are being made, each with the batch that makes it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    by_digest: Mutex<HashMap<Digest, u64>>,
    released: Condvar,
}

/// Whose a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The asking batch's, from now on.
    New,
    /// The asking batch's already.
    Ours,
    /// Another batch's.
    Theirs,
}

impl Claims {
    /// Claims `digest` for `batch` unless it is claimed.
    pub(super) fn claim(&self, digest: Digest, batch: u64) -> Claim {
        match self.lock().entry(digest) {
            Entry::Vacant(free) => {
                free.insert(batch);
                Claim::New
            }
            Entry::Occupied(taken) if *taken.get() == batch => Claim::Ours,
            Entry::Occupied(_) => Claim::Theirs,
        }
    }

    /// Gives up the claims on `digests`.
    pub(super) fn release(&self, digests: impl IntoIterator<Item = Digest>) {
        let mut claims = self.lock();
        for digest in digests {
            claims.remove(&digest);
        }
        drop(claims);
        self.released.notify_all();
    }

    /// Waits until no one is making `digest`.
    pub(super) fn wait(&self, digest: Digest) {
        let claims = self.lock();
        let waited = self.released.wait_while(claims, |claims| claims.contains_key(&digest));
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// No code that could panic runs under this lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, u64>> {
        self.by_digest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
