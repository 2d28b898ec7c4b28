//! Making all of an image now, and giving back what can be made again.

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use di3fs::store::Removed;
use dimg::Digest;

use super::{Importer, chain_ids};
use crate::error::{Error, Result};

/// Of the disk's blocks the background leaves this part free, 1 / 20.
const FREE_PART: u64 = 20;
/// How long an eviction waits for whoever makes contents.
const PATIENCE: Duration = Duration::from_secs(10);

/// What [`Importer::prefetch`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetched {
    /// Contents.
    pub contents: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What [`Importer::evict`] gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Objects, and their bytes.
    pub removed: Removed,
    /// Bytes of the objects that are left.
    pub left_bytes: u64,
}

impl Importer {
    /// Makes all that is missing of an image and checks it, as fast as this machine can.
    ///
    /// # Errors
    /// The image is not known or was rejected, or as for [`Importer::finish`].
    pub fn prefetch(&self, digest: Digest) -> Result<Prefetched> {
        let what = || format!("image {digest}");
        if self.records.get(digest)?.is_none() {
            return Err(Error::NotFound { what: what() });
        }
        if let Some(why) = self.records.rejected(digest) {
            return Err(Error::Corrupt { what: format!("{}: {why}", what()) });
        }
        let before = self.counts();
        if !self.finish(digest, self.workers)? {
            return Err(Error::Unavailable {
                what: format!("complete {}: it was forgotten meanwhile", what()),
            });
        }
        // What served it as it was may end.
        self.work.ask();
        let after = self.counts();
        Ok(Prefetched { contents: after.made - before.made, bytes: after.made_bytes - before.made_bytes })
    }

    /// Removes contents that can be made again and that no container can see, the oldest first, until the object store has at most
    /// `keep_bytes`. It may have more then: contents of complete images cannot be made again.
    ///
    /// # Errors
    /// The store is in use all the time, or something cannot be read or removed.
    pub fn evict(&self, keep_bytes: u64) -> Result<Evicted> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // Who completes an image has seen its contents there: not between that and the end.
        self.hurry.fetch_add(1, Ordering::Relaxed);
        let _one = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.hurry.fetch_sub(1, Ordering::Relaxed);
        let evictable = self.evictable()?;
        let end = Instant::now() + PATIENCE;
        loop {
            let evicted = self.objects.evict(&evictable, keep_bytes);
            let evicted =
                evicted.map_err(|error| Error::Unavailable { what: format!("evict contents: {error}") })?;
            if let Some((removed, left_bytes)) = evicted {
                return Ok(Evicted { removed, left_bytes });
            }
            if Instant::now() > end {
                return Err(Error::Unavailable { what: "evict contents: others are being made".to_owned() });
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What pending images that no container lies on can make again, and nothing else needs.
    fn evictable(&self) -> Result<HashSet<Digest>> {
        let in_use = self.store.lazy_in_use()?;
        let (mut evictable, mut needed) = (HashSet::new(), HashSet::new());
        for digest in self.records.list()? {
            let Some(record) = self.records.get(digest)? else { continue };
            let chain = chain_ids(&record.diff_ids()?);
            let used = chain.iter().any(|chain_id| in_use.contains(&chain_id.to_string()));
            let Some(pending) = self.pending(digest)? else {
                for layer in self.records.layers(digest)? {
                    needed.extend(layer.contents().map(|content| content.digest));
                }
                continue;
            };
            needed.extend(&pending.bases);
            let made: HashSet<Digest> = pending.order.iter().map(|content| content.digest).collect();
            if used || self.records.rejected(digest).is_some() {
                needed.extend(made);
                continue;
            }
            // What its recipes do not make was its parent's, which may be gone.
            for layer in &pending.layers {
                let contents = layer.contents().map(|content| content.digest);
                needed.extend(contents.filter(|digest| !made.contains(digest)));
            }
            evictable.extend(made);
        }
        evictable.retain(|digest| !needed.contains(digest));
        Ok(evictable)
    }

    /// Whether the disk has room for what nobody asked for.
    pub(super) fn has_room(&self) -> Result<bool> {
        let root = self.objects.root();
        let stat = d4c_sys::statvfs(root).map_err(Error::io("look at free space of", root))?;
        Ok(stat.f_bavail >= stat.f_blocks / FREE_PART)
    }
}
