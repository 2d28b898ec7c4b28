//! Complete images that become pending again, so that their contents can be given back.
//!
//! The file of an image whose contents are all there is kept where it is small beside them (`kept` in its record). When room is wanted, and no
//! container or view lies on the image, it gets its first name back, durably, before any content goes: at whatever moment the process dies, the image
//! is either complete and has everything, or pending and can be made. Its recipes start from contents of another image: those have to be
//! there when it becomes pending, and stay from then on, as for any pending image.

use std::collections::HashSet;
use std::fs;
use std::sync::Weak;

use di3fs::store::Until;
use dimg::Digest;

use super::lazy::Pending;
use super::room::unavailable;
use super::{Importer, chain_ids};
use crate::error::Result;

/// A file is kept that has at most this part of the bytes that it makes.
const KEPT_PART: u64 = 8;

/// What came of making a complete image pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reopened {
    /// One is.
    One,
    /// There is none of which that would give anything back.
    None,
    /// There is one, but someone asks for what is served at this moment, or it is still mounted.
    NotNow,
}

impl Importer {
    /// Whether to keep the file of an image that becomes complete.
    pub(super) fn is_worth_keeping(&self, digest: Digest, pending: &Pending) -> bool {
        let made: u64 = pending.order.iter().map(|content| content.size).sum();
        let small = fs::metadata(self.records.delta(digest)).is_ok_and(|meta| meta.len() <= made / KEPT_PART);
        let reserve = |all| self.space.reserve.bytes(all);
        small && self.objects.disk_bytes().is_ok_and(|(free, all)| free >= reserve(all))
    }

    /// The images of which a file is kept, the one imported last first: its recipes may start from contents of one before.
    fn with_kept(&self) -> Result<Vec<(Digest, u64)>> {
        let kept = self.records.list()?.into_iter().filter_map(|digest| {
            let meta = fs::metadata(self.records.kept(digest)).ok()?;
            Some((meta.modified().ok(), digest, meta.len()))
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_unstable();
        Ok(kept.into_iter().rev().map(|(_, digest, bytes)| (digest, bytes)).collect())
    }

    /// A complete image that nothing uses, and contents of which can be given back once it is pending. Files that cannot serve any more are
    /// removed on the way.
    pub(super) fn reopenable(&self) -> Result<Option<Digest>> {
        let kept = self.with_kept()?;
        if kept.is_empty() {
            return Ok(None);
        }
        let in_use = self.store.lazy_in_use()?;
        let now = self.evictable(None)?;
        for (digest, _) in kept {
            let used = || -> Result<bool> {
                Ok(self.chain(digest)?.iter().any(|chain_id| in_use.contains(&chain_id.to_string())))
            };
            if self.records.is_pending(digest) || self.holds.has(digest) || used()? {
                continue;
            }
            let pending = match self.kept(digest) {
                Ok(pending) => pending,
                Err(error) => {
                    tracing::warn!(%digest, %error, "what was kept of an image is of no use");
                    self.records.forget_kept(digest)?;
                    continue;
                }
            };
            let mut missing = HashSet::new();
            for base in &pending.bases {
                if !self.objects.has(base).map_err(unavailable)? {
                    missing.insert(base.digest);
                }
            }
            if !missing.is_empty() {
                if !self.have_contents(missing)? {
                    self.records.forget_kept(digest)?;
                }
                continue;
            }
            let mut more = self.evictable(Some((digest, &pending)))?;
            more.retain(|content, _| !now.contains_key(content));
            if self.is_there(&more)? {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Whether these are all contents of images that are known: such an image can make what is missing.
    fn have_contents(&self, mut contents: HashSet<Digest>) -> Result<bool> {
        for digest in self.records.list()? {
            for layer in self.records.layers(digest)? {
                for content in layer.contents() {
                    contents.remove(&content.digest);
                }
            }
        }
        Ok(contents.is_empty())
    }

    /// Makes such an image pending. Only while contents may be removed: nobody makes any, and those that the
    /// recipes start from cannot go meanwhile.
    pub(super) fn reopen_one(&self) -> Result<Reopened> {
        let Some(digest) = self.reopenable()? else { return Ok(Reopened::None) };
        let Some(mounts) = self.mounts.get().and_then(Weak::upgrade) else { return Ok(Reopened::None) };
        let mut reopened = Ok(Reopened::NotNow);
        mounts.while_unused(&self.chain(digest)?, &mut || {
            reopened = self.records.reopen(digest).map(|()| Reopened::One);
        });
        if matches!(reopened, Ok(Reopened::One)) {
            self.pending_lock().entry(digest).or_default().given_back = true;
            tracing::info!(%digest, "an image that is not used is made again when it is opened");
        }
        reopened
    }

    /// Removes files that are kept until there is as much room on the disk as `until` says; their bytes.
    pub(super) fn forget_kept(&self, until: Until) -> Result<u64> {
        let mut bytes = 0;
        for (digest, kept_bytes) in self.with_kept()? {
            if self.objects.disk_bytes().map_err(unavailable)?.0 >= until.free_bytes {
                break;
            }
            self.records.forget_kept(digest)?;
            bytes += kept_bytes;
        }
        Ok(bytes)
    }

    /// Whether a pending image's contents were given back and nobody has wanted them since, as far as this process knows.
    pub(super) fn is_given_back(&self, digest: Digest) -> bool {
        self.pending_lock().get(&digest).is_some_and(|known| known.given_back)
    }

    /// The same, for the background: and no container lies on it.
    pub(super) fn is_left_given_back(&self, digest: Digest) -> bool {
        self.is_given_back(digest)
            && self.records.get(digest).is_ok_and(|record| {
                let chain = record.and_then(|record| Some(chain_ids(&record.diff_ids().ok()?)));
                let in_use = self.store.lazy_in_use().unwrap_or_default();
                !chain.unwrap_or_default().iter().any(|chain_id| in_use.contains(&chain_id.to_string()))
            })
    }
}
