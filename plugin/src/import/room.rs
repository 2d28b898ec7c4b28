//! Making all of an image now, and giving back what can be made again.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use di3fs::store::{Removed, Room, StoreError, Until};
use dimg::Digest;
use dimg::index::Content;

use super::lazy::Pending;
use super::reopen::Reopened;
use super::{Importer, SweepError, chain_ids};
use crate::error::{Error, Result};

/// How long a removal waits for whoever makes contents.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// And for whoever waits for a content.
const READERS_PATIENCE: Duration = Duration::from_secs(3);
/// After an eviction in vain the next one is not before that.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
const READERS_LOOK_AGAIN: Duration = Duration::from_secs(1);
/// More than a reader's content needs is given back, so that not each of them has to.
const ROOM: u64 = 16 << 20;
/// The kernel may take so long to let go of what was removed within a mount that has just ended.
const LET_GO: Duration = Duration::from_secs(1);
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// Mounts of images: what they have looked at stays on the disk when it is removed, until they end.
pub trait Mounts: fmt::Debug + Send + Sync {
    /// Ends those that no container lies on. What is wanted again is mounted again.
    fn end_unused(&self);

    /// Calls `work` if nothing of these chain IDs is mounted, no container lies on them, and none can come to lie on them before it
    /// has returned. Waits for nobody.
    fn while_unused(&self, chain_ids: &[Digest], work: &mut dyn FnMut());
}

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

/// What [`Importer::room`] tells, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoomLeft {
    /// Of all contents.
    pub used: u64,
    /// How many these may have.
    pub limit: Option<u64>,
    /// Free on their disk.
    pub free: u64,
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
    /// `keep_bytes`. It may have more then: contents of complete images can be made again only where what makes them was kept.
    ///
    /// # Errors
    /// The store is in use all the time, or something cannot be read or removed.
    pub fn evict(&self, keep_bytes: u64) -> Result<Evicted> {
        self.evict_until(Until { keep_bytes, free_bytes: 0 }, PATIENCE)
    }

    /// On a thread of its own, and not for ever: a mount ends after its readers, one of which may wait for us.
    fn end_unused_mounts(&self) {
        let Some(mounts) = self.mounts.get().and_then(Weak::upgrade) else { return };
        let (done, ended) = mpsc::channel();
        let end = move || {
            mounts.end_unused();
            let _ = done.send(());
        };
        match thread::Builder::new().name("end mounts".to_owned()).spawn(end) {
            Ok(_) => drop(ended.recv_timeout(READERS_PATIENCE)),
            Err(error) => tracing::warn!(%error, "cannot end unused mounts"),
        }
    }

    fn evict_until(&self, until: Until, patience: Duration) -> Result<Evicted> {
        // Where nothing has to be given back or can be, mounts need not end, which will be wanted again.
        let left_bytes = self.objects.bytes().map_err(unavailable)?;
        let (free, _) = self.objects.disk_bytes().map_err(unavailable)?;
        let is_well = left_bytes <= until.keep_bytes && free >= until.free_bytes;
        if is_well || !(self.is_there(&self.evictable(None)?)? || self.reopenable()?.is_some()) {
            let bytes = if is_well { 0 } else { self.forget_kept(until)? };
            return Ok(Evicted { removed: Removed { objects: 0, bytes }, left_bytes });
        }
        let end = Instant::now() + patience;
        self.hurry.fetch_add(1, Ordering::Relaxed);
        let evicted = loop {
            self.end_unused_mounts();
            if let Some(evicted) = self.try_evict(until).transpose() {
                break evicted;
            }
            if Instant::now() > end {
                break Err(Error::Unavailable { what: "evict contents: others are being made".to_owned() });
            }
            thread::sleep(LOOK);
        };
        self.hurry.fetch_sub(1, Ordering::Relaxed);
        evicted
    }

    /// None while someone completes an image, needs contents that no record names yet, or asks for what is served.
    fn try_evict(&self, until: Until) -> Result<Option<Evicted>> {
        // Who completes an image has seen its contents there: not between that and the end.
        let _one = match self.finishing.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(None),
        };
        let (mut removed, mut left_bytes, mut reopen) = (Removed::default(), 0, false);
        let so_far = |removed: Removed, left_bytes| {
            Ok((removed.objects > 0).then_some(Evicted { removed, left_bytes }))
        };
        loop {
            let mut reopened = Reopened::None;
            let evictable = || {
                if reopen {
                    reopened = self.reopen_one().map_err(SweepError)?;
                }
                Ok(self.evictable(None).map_err(SweepError)?.into_keys().collect())
            };
            let evicted = self.objects.evict(evictable, until);
            let Some((now, left)) = evicted.map_err(|SweepError(error)| error)? else {
                return so_far(removed, left_bytes);
            };
            left_bytes = left;
            removed.objects += now.objects;
            removed.bytes += now.bytes;
            let (free, _) = self.objects.disk_bytes().map_err(unavailable)?;
            if left_bytes <= until.keep_bytes && free >= until.free_bytes {
                return Ok(Some(Evicted { removed, left_bytes }));
            }
            match reopened {
                Reopened::None if reopen => {
                    removed.bytes += self.forget_kept(until)?;
                    return Ok(Some(Evicted { removed, left_bytes }));
                }
                Reopened::NotNow => return so_far(removed, left_bytes),
                _ => reopen = true,
            }
        }
    }

    /// Has the store tell of space from now on; `mounts` are of images of this importer.
    pub fn watch_room(self: &Arc<Self>, mounts: Weak<dyn Mounts>) {
        // There is one plugin, which asks once.
        let _ = self.mounts.set(mounts);
        self.objects.set_room(Arc::new(Watch { importer: Arc::downgrade(self) }));
    }

    /// Gives back contents as far as there are more than the limit or there is less room than the reserve.
    pub(super) fn keep_room(&self) {
        let kept = self.too_much().and_then(|until| match until {
            None => Ok(None),
            Some(until) => self.evict_until(until, PATIENCE).map(Some),
        });
        match kept {
            Ok(None) => return,
            Ok(Some(Evicted { removed, left_bytes })) if removed.bytes > 0 => {
                let (objects, bytes) = (removed.objects, removed.bytes);
                tracing::info!(objects, bytes, left_bytes, "gave back contents that can be made again");
                if !matches!(self.too_much(), Ok(Some(_))) {
                    return;
                }
            }
            Ok(Some(Evicted { left_bytes, .. })) => {
                tracing::warn!(left_bytes, "too little room, and nothing that can be given back");
            }
            Err(error) => tracing::warn!(%error, "cannot make room"),
        }
        // What can be made again is used, or not there: looking at it all again soon helps nobody.
        self.full_lock().no_room_before = Some(Instant::now() + LOOK_AGAIN);
    }

    /// A snapshot has gone, and what it alone has seen may be given back now: has that looked at again if there is too little room. Does
    /// not wait for who makes room already.
    pub fn look_for_room(&self) {
        let Ok(mut full) = self.last_full.try_lock() else { return };
        let asked = full.no_room_before.take();
        drop(full);
        if asked.is_some() && matches!(self.too_much(), Ok(Some(_))) {
            self.work.ask_room();
        }
    }

    /// How far contents should be given back now; none when all is well.
    fn too_much(&self) -> Result<Option<Until>> {
        let (free, all) = self.objects.disk_bytes().map_err(unavailable)?;
        let (reserve, limit) = (self.space.reserve.bytes(all), self.space.limit.unwrap_or(u64::MAX));
        let over = limit != u64::MAX && self.objects.bytes().map_err(unavailable)? > limit;
        Ok((over || free < reserve).then_some(Until { keep_bytes: limit, free_bytes: reserve }))
    }

    /// For a content that found no space.
    fn make_room(&self, bytes: u64) -> bool {
        let before = self.counts().removed;
        let mut full = self.full_lock();
        if self.counts().removed != before {
            // Someone else has while we waited.
            return true;
        }
        if full.nothing_before.is_some_and(|then| Instant::now() < then) {
            return false;
        }
        self.rest();
        let made = self.objects.disk_bytes().map_err(unavailable).and_then(|(free, _)| {
            let free_bytes = free.saturating_add(bytes.saturating_mul(2).max(ROOM));
            let until = Until { keep_bytes: u64::MAX, free_bytes };
            let evicted = self.evict_until(until, READERS_PATIENCE)?;
            self.wait_until_free(free.saturating_add(bytes.min(evicted.removed.bytes)));
            Ok(evicted)
        });
        match made {
            Ok(Evicted { removed, .. }) if removed.bytes > 0 => {
                tracing::info!(
                    objects = removed.objects,
                    bytes = removed.bytes,
                    "the disk is full: gave back contents"
                );
                return true;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the disk is full"),
        }
        full.nothing_before = Some(Instant::now() + READERS_LOOK_AGAIN);
        false
    }

    /// After a removal that should give so much.
    fn wait_until_free(&self, bytes: u64) {
        let end = Instant::now() + LET_GO;
        while self.objects.disk_bytes().is_ok_and(|(free, _)| free < bytes) && Instant::now() < end {
            thread::sleep(LOOK);
        }
    }

    /// What contents take, and may.
    ///
    /// # Errors
    /// It cannot be found out.
    pub fn room(&self) -> Result<RoomLeft> {
        let (free, _) = self.objects.disk_bytes().map_err(unavailable)?;
        Ok(RoomLeft { used: self.objects.bytes().map_err(unavailable)?, limit: self.space.limit, free })
    }

    fn full_lock(&self) -> MutexGuard<'_, Full> {
        self.last_full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What pending images that no container lies on can make again, and nothing else needs; with `also` as if that complete image were
    /// pending.
    pub(super) fn evictable(&self, also: Option<(Digest, &Pending)>) -> Result<HashMap<Digest, Content>> {
        let in_use = self.store.lazy_in_use()?;
        let (mut evictable, mut needed) = (HashMap::new(), HashSet::new());
        for digest in self.records.list()? {
            let Some(record) = self.records.get(digest)? else { continue };
            let chain = chain_ids(&record.diff_ids()?);
            let used = chain.iter().any(|chain_id| in_use.contains(&chain_id.to_string()));
            let known = self.pending(digest)?;
            let as_if = also.filter(|(one, _)| *one == digest).map(|(_, pending)| pending);
            let Some(pending) = known.as_deref().or(as_if) else {
                for layer in self.records.layers(digest)? {
                    needed.extend(layer.contents().map(|content| content.digest));
                }
                continue;
            };
            needed.extend(pending.bases.iter().map(|base| base.digest));
            let made: HashSet<Digest> = pending.order.iter().map(|content| content.digest).collect();
            // What its recipes do not make was its parent's, which may be gone or pending itself.
            for layer in &pending.layers {
                let contents = layer.contents().map(|content| content.digest);
                needed.extend(contents.filter(|digest| !made.contains(digest)));
            }
            if used || self.records.rejected(digest).is_some() {
                needed.extend(made);
                continue;
            }
            evictable.extend(pending.order.iter().map(|content| (content.digest, *content)));
        }
        evictable.retain(|digest, _| !needed.contains(digest));
        Ok(evictable)
    }

    /// Whether any of these contents is there, as far as can be told without keeping anyone from making more.
    pub(super) fn is_there(&self, contents: &HashMap<Digest, Content>) -> Result<bool> {
        for content in contents.values() {
            if self.objects.has(content).map_err(unavailable)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Why there is no room for so many bytes that nobody asked for; none when there is.
    pub(super) fn lacks_room(&self, bytes: u64) -> Result<Option<&'static str>> {
        let (free, all) = self.objects.disk_bytes().map_err(unavailable)?;
        if free.saturating_sub(bytes) < self.space.reserve.bytes(all) {
            return Ok(Some("the disk is nearly full"));
        }
        match self.space.limit {
            Some(limit) if self.objects.bytes().map_err(unavailable)?.saturating_add(bytes) > limit => {
                Ok(Some("the object store is at its limit"))
            }
            _ => Ok(None),
        }
    }
}

/// When it was in vain to make room.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// For readers, nothing is tried before.
    nothing_before: Option<Instant>,
    /// Nor in the background.
    no_room_before: Option<Instant>,
}

/// Told by the store.
#[derive(Debug)]
struct Watch {
    importer: Weak<Importer>,
}

impl Room for Watch {
    fn grown(&self) {
        let Some(importer) = self.importer.upgrade() else { return };
        importer.work.tell_made();
        let Ok((free, all)) = importer.objects.disk_bytes() else { return };
        let bytes = importer.objects.known_bytes().unwrap_or(0);
        if free < importer.space.reserve.bytes(all) || importer.space.limit.is_some_and(|limit| bytes > limit)
        {
            // Someone who holds this makes room already.
            let Ok(full) = importer.last_full.try_lock() else { return };
            if full.no_room_before.is_none_or(|then| then <= Instant::now()) {
                importer.work.ask_room();
            }
        }
    }

    fn full(&self, bytes: u64) -> bool {
        self.importer.upgrade().is_some_and(|importer| importer.make_room(bytes))
    }
}

pub(super) fn unavailable(error: StoreError) -> Error {
    Error::store("make room")(error)
}
