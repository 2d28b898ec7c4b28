//! Who is making which content.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dimg::Digest;
use dimg::index::Content;

/// Contents that are being made, each with the batch that makes it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    by_digest: HashMap<Digest, u64>,
    /// Batches of which someone awaits a content.
    awaited: HashSet<u64>,
    /// How many wait.
    waiting: usize,
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
    /// Claims for `batch` those of `contents` that are not claimed, and tells of each whose it is. All at once: of two batches that
    /// ask for the contents of one job, one gets them all and the other has nothing to run.
    pub(super) fn claim(&self, contents: &[Content], batch: u64) -> Vec<Claim> {
        let mut claims = self.lock();
        let claim = |content: &Content| match claims.by_digest.entry(content.digest) {
            Entry::Vacant(free) => {
                free.insert(batch);
                Claim::New
            }
            Entry::Occupied(taken) if *taken.get() == batch => Claim::Ours,
            Entry::Occupied(_) => Claim::Theirs,
        };
        contents.iter().map(claim).collect()
    }

    /// Gives up the claims of `batch` on `digests`, all that it has.
    pub(super) fn release(&self, batch: u64, digests: impl IntoIterator<Item = Digest>) {
        let mut claims = self.lock();
        for digest in digests {
            claims.by_digest.remove(&digest);
        }
        claims.awaited.remove(&batch);
        self.wake(claims);
    }

    /// Gives up the claim on `digest`, which whoever asks has just made.
    pub(super) fn give_up(&self, digest: Digest) {
        let mut claims = self.lock();
        claims.by_digest.remove(&digest);
        self.wake(claims);
    }

    fn wake(&self, claims: MutexGuard<'_, State>) {
        let waiting = claims.waiting;
        drop(claims);
        // A call of the system, for nobody as a rule.
        if waiting > 0 {
            self.released.notify_all();
        }
    }

    /// Waits until no one is making `digest`.
    pub(super) fn wait(&self, digest: Digest) {
        let mut claims = self.lock();
        claims.waiting += 1;
        let waited = self.released.wait_while(claims, |claims| {
            let maker = claims.by_digest.get(&digest).copied();
            claims.awaited.extend(maker);
            maker.is_some()
        });
        waited.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }

    /// Whether someone waits for a content of `batch`: it should not begin anything more.
    pub(super) fn is_awaited(&self, batch: u64) -> bool {
        self.lock().awaited.contains(&batch)
    }

    /// No code that could panic runs under this lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
