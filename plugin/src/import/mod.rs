//! Imports: from a cdimg to trees that a Prepare can be answered with.
//!
//! An import finds the image that the delta starts from among those imported before, makes every content that is missing
//! into the object store, checks that the layers' tars come back with their diff IDs, writes a directory per layer and
//! registers it by chain ID, and at last keeps a record of the image. Each step is durable before the next and harmless
//! to do again: whatever moment the process dies at, the next import of the same file goes on from there.
//!
//! Where contents are made when they are opened (`lazy`), an import only keeps the file, records the image and registers
//! its layers; all else is done later.
//!
//! An image that containerd has had and has no snapshot of any more is forgotten ([`Importer::sweep`]): its trees and the
//! objects that no other image needs are removed.

mod contents;
mod error;
mod finisher;
mod holds;
mod lazy;
mod record;
mod reopen;
mod room;
mod sweeper;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use d4c_sys::Map;
use di3fs::checkout::{self, checkout_layer};
use di3fs::store::{Counts, ObjectStore, Removed};
use di3fs::tree::{Layer, Tree};
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::{Cdimg, DimgError, Image};
use dimg::index::LayerIndex;
use dimg::memory::Memory;

pub use error::ImportError;
pub use finisher::Finisher;
use finisher::Work;
use holds::Holds;
use lazy::Known;
pub use lazy::{Progress, ServedImage};
use record::Records;
pub use record::{ImageRecord, chain_ids};
pub use room::{Evicted, Mounts, Prefetched, RoomLeft};
use room::{Full, LOOK, PATIENCE};
pub use sweeper::Sweeper;

use crate::config::{DiffIds, Space};
use crate::error::{Error, Result};
use crate::store::Store;

/// A sweep that failed is tried again so much later, after each further one twice as much, but at least so often.
const SWEEP_AGAIN: Duration = Duration::from_secs(2);
const SWEEP_AGAIN_AT_LEAST: Duration = Duration::from_secs(300);

/// What could not be taken over is tried again so much later.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Imports images into one root directory.
#[derive(Debug)]
pub struct Importer {
    store: Arc<Store>,
    objects: Arc<ObjectStore>,
    records: Records,
    holds: Holds,
    workers: NonZeroUsize,
    /// One import at a time: two would make the same things.
    turn: Mutex<()>,
    /// Whether contents are made when they are opened.
    lazy: bool,
    /// When layers are compared with their diff IDs.
    diff_ids: DiffIds,
    /// Of pending images that were asked for, how they are made.
    pending: Mutex<HashMap<Digest, Known>>,
    /// One image is completed at a time.
    finishing: Mutex<()>,
    /// How many wait for their turn to complete an image: the background leaves it to them.
    hurry: AtomicUsize,
    /// Objects that no image needs may be there: of images that were forgotten while others were made, or by a process that was killed.
    left: AtomicBool,
    trouble: Mutex<Trouble>,
    work: Work,
    space: Space,
    last_full: Mutex<Full>,
    mounts: OnceLock<Weak<dyn Mounts>>,
}

/// Indexes of an image's layers, the lowest first.
type Layers = Vec<Arc<LayerIndex>>;

/// What an import is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An image to be run.
    Image,
    /// Contents and indexes that deltas start from.
    Base,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The image.
    pub image: ImageRecord,
    /// Chain IDs of its layers, the lowest first.
    pub chain_ids: Vec<Digest>,
    /// Contents made, and their bytes.
    pub contents: u64,
    /// Bytes of the contents made.
    pub bytes: u64,
    /// Layers written.
    pub layers: u64,
}

/// An image that can be read by another process while it is held.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The image.
    pub image: ImageRecord,
    /// File with the indexes of its layers, as [`dimg::index::encode_layers`] writes them.
    pub layers: PathBuf,
    /// Directory of objects, as [`di3fs::store::ObjectFiles`] reads it.
    pub objects: PathBuf,
}

/// An image that the plugin knows.
#[derive(Debug, Clone)]
pub struct KnownImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Chain IDs of its layers, the lowest first.
    pub chain_ids: Vec<Digest>,
    /// Bytes of its distinct contents.
    pub bytes: u64,
    /// Whether containerd has a snapshot of its topmost layer.
    pub used: bool,
}

impl Importer {
    /// Opens the object store and the records below the root of `store`.
    ///
    /// # Errors
    /// Another process has the object store open, or a directory cannot be made.
    pub fn open(store: Arc<Store>) -> Result<Self> {
        let root = store.root().to_owned();
        let objects = ObjectStore::open(&root.join("contents")).map_err(Error::store("open object store"))?;
        let records = Records::open(root.join("images"))?;
        let workers = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            store,
            objects: Arc::new(objects),
            records,
            holds: Holds::default(),
            workers,
            turn: Mutex::new(()),
            lazy: false,
            diff_ids: DiffIds::default(),
            pending: Mutex::default(),
            finishing: Mutex::default(),
            hurry: AtomicUsize::new(0),
            left: AtomicBool::new(true),
            trouble: Mutex::default(),
            work: Work::default(),
            space: Space::default(),
            last_full: Mutex::default(),
            mounts: OnceLock::new(),
        })
    }

    /// As [`Importer::open`], of an importer that makes nothing in advance: a [`Finisher`] does later.
    ///
    /// # Errors
    /// As for [`Importer::open`].
    pub fn open_lazy(store: Arc<Store>) -> Result<Self> {
        Ok(Self { lazy: true, ..Self::open(store)? })
    }

    /// The same importer, which compares layers with their diff IDs at another time.
    #[must_use]
    pub fn with_diff_ids(self, diff_ids: DiffIds) -> Self {
        Self { diff_ids, ..self }
    }

    /// The same importer, which gives back contents when there are more than that, or there is less room.
    #[must_use]
    pub fn with_space(self, space: Space) -> Self {
        Self { space, ..self }
    }

    /// The same importer, whose contents are made within so much memory.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        self.objects.share_memory(Arc::new(Memory::new(bytes)));
        self
    }

    /// Where objects and what is being made of them are.
    pub fn objects(&self) -> &ObjectStore {
        &self.objects
    }

    /// Imports the cdimg at `path`. The image stays at least until it is released.
    ///
    /// With [`What::Base`] the layers get no trees: the image can be what deltas start from, and [`Importer::restore`] makes
    /// the rest of it.
    ///
    /// # Errors
    /// [`ImportError`]; what was made so far stays for the next try, or is swept at the next start.
    pub fn import(&self, path: &Path, what: What) -> Result<Imported, ImportError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let map = Map::path(path).map_err(|error| ImportError::read(path, error))?;
        let bytes = Bytes::new(map);
        let file = Cdimg::open(bytes.clone()).map_err(|source| ImportError::file(path, source))?;
        if self.is_doubtful(&bytes, file.dimg().target().manifest)? {
            match self.import_instead(path, &file) {
                // What it starts from may be gone; the first one may be right.
                Ok(()) | Err(ImportError::NoParent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if self.lazy && what == What::Image {
            return self.import_lazily(path, &file);
        }
        // Objects made or found from here on are needed by the record written at the end.
        let _hold = self.objects.hold();
        let before = self.objects.counts();
        let target = file.dimg().target();
        let known = self.records.get(target.manifest)?.is_some();
        let image = if known {
            // Its parent may be gone.
            Image { layers: self.records.layers(target.manifest)?, ..Default::default() }
        } else {
            self.resolve(path, &file)?.0
        };
        if known {
            self.finish(target.manifest, self.workers)?;
        }
        contents::make(&self.objects, &file, &image, self.workers)
            .map_err(|error| ImportError::store(path, error))?;

        let record = ImageRecord {
            digest: target.manifest,
            manifest: file.manifest().to_vec(),
            config: file.config().to_vec(),
        };
        let mut imported = self.lay_out(path, record, &image.layers, what)?;
        if !known {
            self.objects.sync().map_err(|error| ImportError::store(path, error))?;
            self.records.put(&imported.image, &image.layers, None)?;
        }
        self.holds.take(target.manifest);
        let after = self.objects.counts();
        imported.contents = after.made - before.made;
        imported.bytes = after.made_bytes - before.made_bytes;
        Ok(imported)
    }

    /// As [`Importer::import`], for whom nobody comes back: what it leaves where it fails is forgotten by a later sweep, unless the image was known
    /// before. So is the image itself, once nothing holds it and containerd has not taken it, if it is not to be kept.
    ///
    /// # Errors
    /// As for [`Importer::import`], or the image cannot be marked.
    pub fn import_unattended(&self, path: &Path, what: What, keep: bool) -> Result<Imported, ImportError> {
        let map = Map::path(path).map_err(|error| ImportError::read(path, error))?;
        let file = Cdimg::open(Bytes::new(map)).map_err(|source| ImportError::file(path, source))?;
        let digest = file.dimg().target().manifest;
        let known = self.records.get(digest)?.is_some();
        let imported = self.import(path, what);
        let is_left = !known && (!keep || imported.is_err());
        if is_left && self.records.get(digest)?.is_some() {
            self.records.set_used(digest)?;
        }
        imported
    }

    /// Gives the layers of an image that was imported as a base their trees, as if it had been imported whole. Nothing is
    /// made again where they have them.
    ///
    /// # Errors
    /// It is not known, or as for [`Importer::import`].
    pub fn restore(&self, digest: Digest) -> Result<Imported, ImportError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("image {digest}");
        let path = Path::new(&name);
        let record = self.records.get(digest)?.ok_or_else(|| Error::NotFound { what: name.clone() })?;
        let imported = if self.lazy {
            self.finish_eagerly(path, digest)?;
            self.register_lazily(path, record)?
        } else {
            let _hold = self.objects.hold();
            self.finish(digest, self.workers)?;
            self.lay_out(path, record, &self.records.layers(digest)?, What::Image)?
        };
        self.holds.take(digest);
        Ok(imported)
    }

    /// Completes an image that is known, and holds it: its contents can be read until it is released.
    ///
    /// # Errors
    /// It is not known, was rejected, or cannot be completed.
    pub fn export(&self, digest: Digest) -> Result<Exported> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let what = || format!("image {digest}");
        let image = self.records.get(digest)?.ok_or_else(|| Error::NotFound { what: what() })?;
        if let Some(why) = self.records.rejected(digest) {
            return Err(Error::Corrupt { what: format!("{}: {why}", what()) });
        }
        // First, so that nothing is given back between the two.
        self.holds.take(digest);
        let finished = self.finish(digest, self.workers).and_then(|finished| match finished {
            true => Ok(()),
            false => Err(Error::Unavailable { what: format!("complete {}", what()) }),
        });
        finished.inspect_err(|_| self.holds.release(digest))?;
        Ok(Exported { image, layers: self.records.layers_path(digest), objects: self.objects.objects() })
    }

    /// Checks the layers of an image whose contents are there, and writes those that have no tree unless it is a base.
    fn lay_out(
        &self,
        path: &Path,
        image: ImageRecord,
        layers: &[Arc<LayerIndex>],
        what: What,
    ) -> Result<Imported, ImportError> {
        let diff_ids = image.diff_ids()?;
        let chain_ids = chain_ids(&diff_ids);
        let missing = self.missing(&chain_ids)?;
        if self.diff_ids != DiffIds::Off {
            contents::check_diff_ids(&self.objects, layers, &diff_ids, &missing, self.workers)
                .map_err(|error| ImportError::layer(path, error))?;
        }
        let layers = match what {
            What::Base => 0,
            What::Image => self.write_layers(path, layers, &chain_ids, &image.digest.to_string())?,
        };
        Ok(Imported { image, chain_ids, contents: 0, bytes: 0, layers })
    }

    /// The image that `file` makes, and its parent with its layers, which is found here and completed.
    fn resolve(&self, path: &Path, file: &Cdimg) -> Result<(Image, Option<(Digest, Layers)>), ImportError> {
        let Some(parent) = file.dimg().parent() else {
            let image = file.dimg().resolve(None).map_err(|source| ImportError::file(path, source))?;
            return Ok((image, None));
        };
        let found = match self.records.get(parent.manifest)? {
            Some(found) => Some(found),
            // The same layers under another manifest serve as well.
            None => self.find(|image| image.diff_ids().is_ok_and(|ids| ids == parent.layers))?,
        };
        let Some(found) = found else {
            return Err(ImportError::NoParent { file: path.to_owned(), parent: parent.manifest });
        };
        if !self.finish(found.digest, self.workers)? {
            return Err(ImportError::NoParent { file: path.to_owned(), parent: parent.manifest });
        }
        let resolve = || -> Result<_, DimgError> {
            let layers =
                self.records.layers(found.digest).map_err(|error| DimgError::Refused(error.to_string()))?;
            Ok((file.dimg().resolve(Some(&layers))?, Some((found.digest, layers))))
        };
        resolve().map_err(|source| ImportError::file(path, source))
    }

    fn find(&self, wanted: impl Fn(&ImageRecord) -> bool) -> Result<Option<ImageRecord>> {
        for digest in self.records.list()? {
            if let Some(image) = self.records.get(digest)?
                && wanted(&image)
            {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// Which of the chain have no tree yet.
    fn missing(&self, chain_ids: &[Digest]) -> Result<Vec<bool>> {
        chain_ids.iter().map(|id| Ok(self.store.tree(&id.to_string())?.is_none())).collect()
    }

    /// Writes the layers that are not there yet, the lowest first; how many.
    fn write_layers(
        &self,
        path: &Path,
        layers: &[Arc<LayerIndex>],
        chain_ids: &[Digest],
        holder: &str,
    ) -> Result<u64, ImportError> {
        let options = checkout::Options { workers: self.workers, sync: false };
        let (mut lower, mut written) = (Tree::default(), 0);
        for (index, chain_id) in layers.iter().zip(chain_ids) {
            let chain_id = chain_id.to_string();
            let layer = Layer::new(index).map_err(|error| ImportError::layer(path, error))?;
            let tree = if self.store.hold_tree(&chain_id, holder)?.is_some() {
                layer.on(&lower).map_err(|error| ImportError::layer(path, error))?
            } else {
                let dir = self.store.new_tree_dir()?;
                let checked_out = checkout_layer(&lower, &layer, &self.objects, &dir.fs, &options);
                let registered =
                    checked_out.map_err(|error| ImportError::checkout(path, error)).and_then(|(tree, _)| {
                        Ok((tree, self.store.register_tree(&chain_id, dir.number, holder)?))
                    });
                match registered {
                    Ok((tree, _)) => {
                        written += 1;
                        tree
                    }
                    Err(error) => {
                        if let Err(error) = self.store.discard_tree_dir(dir.number) {
                            tracing::warn!(%error, "a layer that was not written is noted until the next start");
                        }
                        return Err(error);
                    }
                }
            };
            lower.cover(&tree);
        }
        Ok(written)
    }

    /// Ends a hold of [`Importer::import`], and sweeps.
    pub fn release(&self, image: Digest) {
        self.unhold(image);
        // A sweep may have passed it by.
        self.sweep_unused();
    }

    /// Ends a hold of [`Importer::import`]; a later sweep sees it.
    pub fn unhold(&self, image: Digest) {
        self.holds.release(image);
    }

    /// Lets a sweep forget an image that containerd never had, too, once nothing holds it.
    ///
    /// # Errors
    /// It cannot be marked.
    pub fn set_forgettable(&self, image: Digest) -> Result<()> {
        self.records.set_used(image)
    }

    /// The images known, by digest, and the chain IDs of their layers, the lowest first.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn chains(&self) -> Result<Vec<(Digest, Vec<Digest>)>> {
        self.of_each(|digest| Ok((digest, self.chain(digest)?)))
    }

    /// The images known, by digest.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn images(&self) -> Result<Vec<KnownImage>> {
        self.of_each(|digest| {
            let chain_ids = self.chain(digest)?;
            let mut contents = HashSet::new();
            for layer in self.records.layers(digest)? {
                contents.extend(layer.contents());
            }
            let used = self.refs(&chain_ids)? > 0;
            Ok(KnownImage { digest, chain_ids, bytes: contents.iter().map(|c| c.size).sum(), used })
        })
    }

    /// What is said of each image; of those that are removed meanwhile, nothing.
    fn of_each<T>(&self, said: impl Fn(Digest) -> Result<T>) -> Result<Vec<T>> {
        let each = self.records.list()?.into_iter().map(|digest| (digest, said(digest)));
        let there = each.filter(|(digest, said)| said.is_ok() || self.records.is_known(*digest));
        there.map(|(_, said)| said).collect()
    }

    fn chain(&self, digest: Digest) -> Result<Vec<Digest>> {
        let image = self.records.get(digest)?;
        image.map_or(Ok(Vec::new()), |image| Ok(chain_ids(&image.diff_ids()?)))
    }

    /// Snapshots of the topmost layer.
    fn refs(&self, chain_ids: &[Digest]) -> Result<u64> {
        let Some(top) = chain_ids.last() else { return Ok(0) };
        Ok(self.store.tree(&top.to_string())?.map_or(0, |tree| tree.refs))
    }

    /// Notes that containerd adopted a layer: images of which it is the topmost are in use now.
    ///
    /// # Errors
    /// A record cannot be read or marked.
    pub fn adopted(&self, chain_id: &str) -> Result<()> {
        for digest in self.records.list()? {
            if self.chain(digest)?.last().is_some_and(|top| top.to_string() == chain_id) {
                self.records.set_used(digest)?;
            }
        }
        Ok(())
    }

    /// Forgets images that containerd had and has no more; then removes objects that no image needs, those that are made meanwhile a
    /// little later. How many images, and what of the objects; nothing while an import runs, whose release makes up for it.
    ///
    /// # Errors
    /// A record or an object cannot be read or removed.
    pub fn sweep(&self) -> Result<(u64, Removed)> {
        let Ok(_turn) = self.turn.try_lock() else { return Ok((0, Removed::default())) };
        let forgotten = self.forget(false)?;
        let removed = if forgotten > 0 { self.remove_unneeded()? } else { None };
        Ok((forgotten, removed.unwrap_or_default()))
    }

    /// As [`Importer::sweep`], also of images that containerd never had. Waits for imports, and for whoever makes contents.
    ///
    /// # Errors
    /// As for [`Importer::sweep`].
    pub fn prune(&self) -> Result<(u64, Removed)> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = self.forget(true)?;
        let end = Instant::now() + PATIENCE;
        self.hurry.fetch_add(1, Ordering::Relaxed);
        let removed = loop {
            match self.remove_unneeded() {
                Ok(None) if Instant::now() < end => thread::sleep(LOOK),
                removed => break removed,
            }
        };
        self.hurry.fetch_sub(1, Ordering::Relaxed);
        Ok((forgotten, removed?.unwrap_or_default()))
    }

    /// Forgets images that are not needed; how many.
    fn forget(&self, all: bool) -> Result<u64> {
        let mut forgotten = 0;
        for digest in self.records.list()? {
            let wanted = self.holds.has(digest) || !(all || self.records.is_used(digest));
            let chain = self.chain(digest)?;
            if wanted || self.refs(&chain)? > 0 {
                continue;
            }
            let top = chain.last().map(Digest::to_string).unwrap_or_default();
            // A layer may be taken until this moment, and not after it.
            if self.store.release_trees(&digest.to_string(), &top)?.is_some() {
                self.records.remove(digest)?;
                forgotten += 1;
                // What served it ends then, too.
                self.work.ask_sweep();
            }
        }
        Ok(forgotten)
    }

    /// Removes objects that no image needs; none while others are made, and a little later then.
    fn remove_unneeded(&self) -> Result<Option<Removed>> {
        let removed = self.objects.remove_unreferenced(|| -> Result<_, SweepError> {
            self.left.store(false, Ordering::Relaxed);
            let mut needed = HashSet::new();
            for digest in self.records.list()? {
                for layer in self.records.layers(digest)? {
                    needed.extend(layer.contents().map(|content| content.digest));
                }
                if let Some(pending) = self.pending(digest)? {
                    needed.extend(pending.bases.iter().map(|base| base.digest));
                }
            }
            Ok(needed)
        });
        match &removed {
            Ok(Some(_)) => *self.trouble() = Trouble::default(),
            Ok(None) => self.work.ask_sweep(),
            Err(_) => self.work.ask_sweep_after(self.trouble().next_pause()),
        }
        self.left.fetch_or(!matches!(removed, Ok(Some(_))), Ordering::Relaxed);
        removed.map_err(|SweepError(error)| error)
    }

    /// Removes objects that were left, unless others are made.
    fn sweep_left(&self) {
        if self.left.load(Ordering::Relaxed) {
            self.sweep_objects();
        }
    }

    /// [`Importer::sweep`] of what containerd has no more, for those who cannot do anything about a failure.
    pub fn sweep_unused(&self) {
        match self.sweep() {
            Ok((0, _)) => {}
            Ok((images, _)) => tracing::info!(images, "forgot images that containerd has no more"),
            Err(error) if self.trouble().is_new(&error) => tracing::warn!(%error, "cannot forget images"),
            Err(_) => {}
        }
    }

    /// Removes objects that a failed import left, after another one that runs.
    pub fn sweep_objects(&self) {
        self.left.store(true, Ordering::Relaxed);
        match self.turn.try_lock().map(|_turn| self.remove_unneeded()) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if self.trouble().is_new(&error) => {
                tracing::warn!(%error, "cannot remove what a failed import left");
            }
            Ok(Err(_)) => {}
            Err(_) => self.work.ask_sweep(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has sweeps done again soon: for what could not be done yet.
    pub fn look_again(&self) {
        self.work.ask_sweep_after(LOOK_AGAIN);
    }

    /// Notes what the next process should know.
    pub fn close(&self) {
        self.note_opened();
        if let Err(error) = self.objects.sync() {
            tracing::warn!(%error, "contents are not flushed");
        }
    }

    /// What the object store did since the start.
    pub fn counts(&self) -> Counts {
        self.objects.counts()
    }

    /// The store of snapshots and trees.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

/// What stood against sweeps since the last one that went well.
#[derive(Debug, Default)]
struct Trouble {
    /// Until the next one.
    pause: Option<Duration>,
    /// What the log has been told.
    told: HashSet<String>,
}

impl Trouble {
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause.map_or(SWEEP_AGAIN, |pause| (2 * pause).min(SWEEP_AGAIN_AT_LEAST));
        self.pause = Some(pause);
        pause
    }

    fn is_new(&mut self, error: &Error) -> bool {
        self.told.insert(error.to_string())
    }
}

struct SweepError(Error);

impl From<Error> for SweepError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<di3fs::store::StoreError> for SweepError {
    fn from(error: di3fs::store::StoreError) -> Self {
        Self(Error::store("remove objects")(error))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_sweep_that_fails_is_tried_again_less_and_less_often() {
        let root = tempfile::tempdir().unwrap();
        let importer = Importer::open(Arc::new(Store::open(root.path()).unwrap())).unwrap();
        let record = root.path().join("images").join(Digest::of(b"m").hex());
        fs::create_dir(&record).unwrap();
        fs::write(record.join("layers"), "not layers").unwrap();
        importer.sweep_objects();
        importer.sweep_objects();
        assert_eq!(importer.trouble().told.len(), 1);
        assert_eq!(importer.trouble().pause, Some(2 * SWEEP_AGAIN));
        (0..10).for_each(|_| importer.sweep_objects());
        assert_eq!(importer.trouble().pause, Some(SWEEP_AGAIN_AT_LEAST));
        assert!(importer.left.load(Ordering::Relaxed));
        fs::remove_dir_all(record).unwrap();
        importer.sweep_objects();
        assert!(importer.trouble().pause.is_none() && !importer.left.load(Ordering::Relaxed));
    }
}
