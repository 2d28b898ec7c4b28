//! Images whose contents are made when they are opened, and all of them in the background.
//!
//! An image that was imported so is *pending*: its record keeps the file that it came from and the layers of its parent.
//! Its contents are made by whoever opens them first and, one after the other, by [`Importer::finish`], which then checks
//! that its layers' tars come back with their diff IDs. After that it is complete and needs neither any more. An image that
//! does not come back as it says is *rejected*: nothing new is served from it. The file of a complete one may be kept (`reopen`).
//!
//! The parent of a pending image is always complete, so what its recipes start from are objects.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use d4c_sys::{Map, spawn_scoped};
use di3fs::lazy::{Contents, Step};
use di3fs::tree::Tree;
use dimg::Digest;
use dimg::content::Bytes;
use dimg::format::{Cdimg, DeltaFile, DimgError, Image};
use dimg::index::{Content, LayerIndex};
use tempfile::NamedTempFile;

use super::record::Order;
use super::{ImageRecord, ImportError, Imported, Importer, chain_ids, contents};
use crate::config::DiffIds;
use crate::error::{Error, Result};
use crate::snapshot::Labels;
use crate::snapshotter::{LayerProvider, Parent, ReadyLayer};

/// Contents made between two looks at whether they are still wanted.
const BATCH: usize = 128;
/// Between two looks at whether someone waits for an image.
const PAUSE: Duration = Duration::from_millis(100);
/// The background goes on after this, however many wait for contents.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An image that could not be completed, for want of room or else, is tried again so much later.
const TRY_AGAIN: Duration = Duration::from_secs(300);

/// How an image is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Someone waits for it.
    Wanted,
    /// Whenever nothing else is to be done.
    Background,
}

/// What a pending image's contents are made from.
#[derive(Debug)]
pub(super) struct Pending {
    contents: Arc<Contents>,
    pub(super) layers: Vec<Arc<LayerIndex>>,
    /// Whether each layer is one that its parent has not.
    new_layers: Vec<bool>,
    /// What its recipes make: first what was opened first, then along the file, so that a group of small ones is decoded once.
    pub(super) order: Vec<Content>,
    /// What its recipes start from.
    pub(super) bases: HashSet<Content>,
}

/// What of a pending image someone uses: memory is for what is read, not for all that could be.
#[derive(Debug, Default)]
pub(super) struct Known {
    pending: Weak<Pending>,
    contents: Weak<Contents>,
    /// So many first opens are on the disk.
    noted: Arc<AtomicUsize>,
    /// Its contents were given back: the background makes them when a container is there that may want them.
    pub(super) given_back: bool,
}

/// An image as it is served up to one of its layers.
#[derive(Debug)]
pub struct ServedImage {
    /// Its tree and contents.
    pub image: di3fs::mount::Image,
    /// Whether all contents are there.
    pub complete: bool,
}

/// How far an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Contents may be missing, and its layers were not checked.
    Pending,
    /// All contents are there, and its layers are what they are said to be.
    Complete,
    /// They are not.
    Rejected,
}

/// The trees that imports have registered, but for those of images that were rejected.
impl LayerProvider for Importer {
    fn lookup(&self, parent: &Parent<'_>, chain_id: &str, labels: &Labels) -> Result<Option<ReadyLayer>> {
        let Some(ready) = self.store.lookup(parent, chain_id, labels)? else { return Ok(None) };
        if self.store.lazy_chain(ready.number)?.is_none() {
            return Ok(Some(ready));
        }
        let Some((digest, _)) = self.image_of(chain_id)? else { return Ok(None) };
        self.sound(digest).map(|()| Some(ready))
    }
}

impl Importer {
    /// Imports `file`, read from `path`, without making anything: it is checked and kept.
    pub(super) fn import_lazily(&self, path: &Path, file: &Cdimg) -> Result<Imported, ImportError> {
        let target = file.dimg().target();
        let record = ImageRecord {
            digest: target.manifest,
            manifest: file.manifest().to_vec(),
            config: file.config().to_vec(),
        };
        let corrupt = |source| ImportError::file(path, source);
        if self.records.get(record.digest)?.is_none() {
            let frames = u32::try_from(file.dimg().frames().map_err(corrupt)?.len()).unwrap_or(u32::MAX);
            for number in 0..frames {
                file.dimg().frame(number).map_err(corrupt)?;
            }
            // The parent's objects are needed by the record written at the end.
            let _hold = self.objects.hold();
            let (image, parent) = self.resolve(path, file)?;
            let kept = self.incoming_copy(path)?;
            let layers = parent.as_ref().map(|(_, layers)| layers.as_slice());
            self.records.put(&record, &image.layers, Some((kept.path(), layers)))?;
            if let Some((parent, _)) = parent {
                let carried = carried_over(&self.records.opened(parent), &image);
                self.note(record.digest, Order::Carried, &carried);
            }
            // Moved.
            drop(kept.into_temp_path().keep());
        }
        self.finish_eagerly(path, target.manifest)?;
        let imported = self.register_lazily(path, record)?;
        self.holds.take(target.manifest);
        Ok(imported)
    }

    fn incoming_copy(&self, path: &Path) -> Result<NamedTempFile, ImportError> {
        let kept = self.records.incoming()?;
        let source = File::open(path).map_err(|error| ImportError::read(path, error))?;
        d4c_sys::clone_file(&source, kept.as_file()).map_err(|error| ImportError::copy(path, error))?;
        Ok(kept)
    }

    /// Whether the image of `file` is known and not complete, and was imported from another file: what that says may be wrong.
    pub(super) fn is_doubtful(&self, file: &[u8], digest: Digest) -> Result<bool> {
        if self.records.get(digest)?.is_none() || !self.records.is_pending(digest) {
            return Ok(false);
        }
        let path = self.records.delta(digest);
        let known = Map::path(&path).map_err(Error::io("read file", &path))?;
        Ok(*known != *file)
    }

    /// Makes all of an image that is not complete from `file`, read from `path`, and keeps that instead of the file that it was imported
    /// from. Nothing changes where `file` does not make it as it is said to be.
    pub(super) fn import_instead(&self, path: &Path, file: &Cdimg) -> Result<(), ImportError> {
        let digest = file.dimg().target().manifest;
        let Some(record) = self.records.get(digest)? else { return Ok(()) };
        // As for the first one.
        let hold = self.objects.hold();
        let (image, parent) = self.resolve(path, file)?;
        let made = contents::make(&self.objects, file, &image, self.workers);
        made.and_then(|()| self.objects.sync()).map_err(|error| ImportError::store(path, error))?;
        let below = parent.as_ref().map(|(_, layers)| layers.as_slice());
        if self.diff_ids != DiffIds::Off {
            let is_new = |layer| !below.iter().copied().flatten().any(|other| Arc::ptr_eq(layer, other));
            let new: Vec<_> = image.layers.iter().map(is_new).collect();
            contents::check_diff_ids(&self.objects, &image.layers, &record.diff_ids()?, &new, self.workers)
                .map_err(|why| ImportError::layer(path, why))?;
        }
        let kept = self.incoming_copy(path)?;
        let one = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.records.replace(&record, &image.layers, (kept.path(), below))?;
        // Moved.
        drop(kept.into_temp_path().keep());
        self.pending_lock().remove(&digest);
        drop((one, hold));
        tracing::info!(%digest, "image is made from another file");
        self.finish(digest, self.workers)?;
        Ok(())
    }

    /// Registers the layers of an image that is recorded, empty.
    pub(super) fn register_lazily(&self, path: &Path, image: ImageRecord) -> Result<Imported, ImportError> {
        self.refuse_rejected(path, image.digest)?;
        let (chain_ids, holder) = (chain_ids(&image.diff_ids()?), image.digest.to_string());
        let mut layers = 0;
        for chain_id in &chain_ids {
            layers += u64::from(self.store.register_lazy(&chain_id.to_string(), &holder)?);
        }
        self.work.ask();
        Ok(Imported { image, chain_ids, contents: 0, bytes: 0, layers })
    }

    fn refuse_rejected(&self, path: &Path, digest: Digest) -> Result<(), ImportError> {
        self.records.rejected(digest).map_or(Ok(()), |why| Err(ImportError::layer(path, why)))
    }

    /// Completes an image before anyone can take its layers, where its diff IDs are to be compared then.
    pub(super) fn finish_eagerly(&self, path: &Path, digest: Digest) -> Result<(), ImportError> {
        if self.diff_ids != DiffIds::Eager {
            return Ok(());
        }
        self.refuse_rejected(path, digest)?;
        match self.finish(digest, self.workers)? {
            true => Ok(()),
            false => Err(Error::Unavailable { what: format!("complete image {digest}") }.into()),
        }
    }

    /// The image that ends with the layer of `chain_id`, if that layer was imported to be served; none when it has gone.
    ///
    /// # Errors
    /// It was rejected, or a record cannot be read.
    pub fn served_image(&self, chain_id: &str) -> Result<Option<ServedImage>> {
        match self.image_of(chain_id)? {
            Some((digest, top)) => {
                self.sound(digest)?;
                self.as_served(digest, top).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The same for whom it is served already: also of a rejected image.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn still_served_image(&self, chain_id: &str) -> Result<Option<ServedImage>> {
        self.image_of(chain_id)?.map(|(digest, top)| self.as_served(digest, top)).transpose()
    }

    /// Up to the layer number `top`.
    fn as_served(&self, digest: Digest, top: usize) -> Result<ServedImage> {
        let merge = |layers: &[Arc<LayerIndex>]| Tree::merge(layers.get(..=top).unwrap_or(layers));
        let pending = self.pending_and(digest, merge)?;
        let complete = pending.is_none();
        if !complete && self.is_given_back(digest) {
            self.work.ask();
        }
        let (tree, contents) = match pending {
            Some((pending, tree)) => (tree, Arc::clone(&pending.contents)),
            None => {
                let contents = Contents::new(Arc::clone(&self.objects), Vec::new(), Vec::new());
                (merge(&self.records.layers(digest)?), Arc::new(contents))
            }
        };
        let tree =
            tree.map_err(|error| Error::Corrupt { what: format!("lay out image {digest}: {error}") })?;
        let image = di3fs::mount::Image { tree: Arc::new(tree), contents };
        Ok(ServedImage { image, complete })
    }

    /// Whether all contents of the image that ends with the layer of `chain_id` are there.
    ///
    /// # Errors
    /// As for [`Importer::served_image`].
    pub fn is_complete(&self, chain_id: &str) -> Result<bool> {
        Ok(self.progress(chain_id)? == Some(Progress::Complete))
    }

    /// How far the image that ends with the layer of `chain_id` is; none when it has gone.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn progress(&self, chain_id: &str) -> Result<Option<Progress>> {
        let progress = |(digest, _)| match self.records.rejected(digest) {
            Some(_) => Progress::Rejected,
            None if self.records.is_pending(digest) => Progress::Pending,
            None => Progress::Complete,
        };
        Ok(self.image_of(chain_id)?.map(progress))
    }

    fn sound(&self, digest: Digest) -> Result<()> {
        let rejected = |why| Err(Error::Corrupt { what: format!("image {digest}: {why}") });
        self.records.rejected(digest).map_or(Ok(()), rejected)
    }

    /// An image that has the layer of `chain_id`, a complete one if there is one, a rejected one if there is no other, and the layer's number.
    fn image_of(&self, chain_id: &str) -> Result<Option<(Digest, usize)>> {
        let Some(tree) = self.store.tree(chain_id)? else { return Ok(None) };
        let (mut found, mut rejected) = (None, None);
        for digest in tree.holders.iter().filter_map(|holder| holder.parse::<Digest>().ok()) {
            let position = self.chain(digest)?.iter().position(|id| id.to_string() == chain_id);
            let Some(top) = position else { continue };
            if self.records.rejected(digest).is_some() {
                rejected = Some((digest, top));
                continue;
            }
            found = Some((digest, top));
            if !self.records.is_pending(digest) {
                break;
            }
        }
        Ok(found.or(rejected))
    }

    /// What a pending image is made from; none for one that is complete.
    pub(super) fn pending(&self, digest: Digest) -> Result<Option<Arc<Pending>>> {
        Ok(self.pending_and(digest, |_| ())?.map(|(pending, ())| pending))
    }

    /// The same, and what `work` makes of its layers: while another thread compares these with what its file names, where they were
    /// not known yet.
    fn pending_and<T>(
        &self,
        digest: Digest,
        work: impl FnOnce(&[Arc<LayerIndex>]) -> T,
    ) -> Result<Option<(Arc<Pending>, T)>> {
        let mut known = self.pending_lock();
        if !self.records.is_pending(digest) {
            known.remove(&digest);
            return Ok(None);
        }
        let entry = known.entry(digest).or_default();
        if let Some(pending) = entry.pending.upgrade() {
            let worked = work(&pending.layers);
            return Ok(Some((pending, worked)));
        }
        let (pending, worked) = self.load_pending(digest, &self.records.delta(digest), entry, work)?;
        let pending = Arc::new(pending);
        entry.pending = Arc::downgrade(&pending);
        entry.contents = Arc::downgrade(&pending.contents);
        Ok(Some((pending, worked)))
    }

    /// What a complete image was made from, by the file that was kept of it.
    pub(super) fn kept(&self, digest: Digest) -> Result<Pending> {
        let loaded = self.load_pending(digest, &self.records.kept(digest), &Known::default(), |_| ());
        loaded.map(|(pending, ())| pending)
    }

    /// Of the image whose file is at `path`.
    fn load_pending<T>(
        &self,
        digest: Digest,
        path: &Path,
        known: &Known,
        work: impl FnOnce(&[Arc<LayerIndex>]) -> T,
    ) -> Result<(Pending, T)> {
        let failed = |error: DimgError| Error::Corrupt { what: format!("{}: {error}", path.display()) };
        let map = Map::path(path).map_err(Error::io("read file", path))?;
        let mut file = DeltaFile::open(Bytes::new(map)).map_err(failed)?;
        let parent = self.records.parent_layers(digest)?;
        let (image, check) = file.dimg().resolve_unchecked(parent.as_deref()).map_err(failed)?;
        let is_new =
            |layer: &Arc<LayerIndex>| !parent.iter().flatten().any(|other| Arc::ptr_eq(layer, other));
        let new_layers = image.layers.iter().map(is_new).collect();
        // Each of these is as large as the tree that is made now.
        drop(parent);
        file.forget_edit();
        let worked = thread::scope(|scope| {
            let checking = spawn_scoped(scope, || check.run());
            let worked = work(&image.layers);
            let checked = match checking {
                Some(checking) => checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                None => check.run(),
            };
            checked.map(|()| worked)
        });
        let worked = worked.map_err(failed)?;
        let mut recipes: Vec<_> = image.recipes.values().collect();
        let opened = self.records.opened(digest);
        let mut rank: HashMap<&Digest, usize> = HashMap::new();
        for (at, one) in opened.iter().enumerate() {
            rank.entry(one).or_insert(at);
        }
        let rank = |content: Digest| rank.get(&content).copied().unwrap_or(usize::MAX);
        recipes.sort_unstable_by_key(|recipe| {
            (rank(recipe.content.digest), recipe.place(), recipe.content.digest)
        });
        let bases = recipes.iter().filter_map(|recipe| recipe.base).collect();
        let order = recipes.iter().map(|recipe| recipe.content).collect();
        let contents = match known.contents.upgrade() {
            Some(contents) => contents,
            None => {
                let own = self.records.order(digest, Order::Opened);
                known.noted.store(own.len(), Ordering::Relaxed);
                let steps = vec![Step { file: Arc::new(file), recipes: image.recipes }];
                let contents = Contents::new(Arc::clone(&self.objects), steps, Vec::new());
                Arc::new(contents.with_opened(own))
            }
        };
        Ok((Pending { new_layers, order, bases, layers: image.layers, contents }, worked))
    }

    pub(super) fn pending_lock(&self) -> MutexGuard<'_, HashMap<Digest, Known>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what is missing of an image, checks its layers and declares it complete. Whether it is now.
    ///
    /// # Errors
    /// A content cannot be made, or a layer is not what its image says.
    pub fn finish(&self, digest: Digest, workers: NonZeroUsize) -> Result<bool> {
        self.hurry.fetch_add(1, Ordering::Relaxed);
        let finished = self.finish_at(digest, workers, Pace::Wanted);
        self.hurry.fetch_sub(1, Ordering::Relaxed);
        finished
    }

    /// Before a `batch` in the background: leaves the disk and the processors to whoever waits for a content. Whether to go on.
    fn may_go_on(&self, digest: Digest, batch: &[Content]) -> Result<bool> {
        self.note_opened();
        let (end, hurry) = (Instant::now() + LONGEST_PAUSE, || self.hurry.load(Ordering::Relaxed) > 0);
        while !hurry() && Instant::now() < end && !self.objects.let_readers_go_first(PAUSE) {}
        if hurry() || self.work.wants_room() {
            self.work.ask();
            return Ok(false);
        }
        match self.lacks_room(batch.iter().map(|content| content.size).sum())? {
            None => Ok(true),
            Some(why) => Err(Error::NoSpace { what: format!("complete image {digest}: {why}") }),
        }
    }

    fn finish_at(&self, digest: Digest, workers: NonZeroUsize, pace: Pace) -> Result<bool> {
        let _one = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pending) = self.pending(digest)? else { return Ok(self.records.get(digest)?.is_some()) };
        let started = Instant::now();
        for batch in pending.order.chunks(BATCH) {
            if !self.records.is_pending(digest) {
                // Forgotten meanwhile, and swept: not all that was made was there to be seen then.
                self.remove_unneeded()?;
                return Ok(false);
            }
            if self.work.is_stopped() || (pace == Pace::Background && !self.may_go_on(digest, batch)?) {
                return Ok(false);
            }
            let made = pending.contents.ensure_all(batch, workers);
            made.map_err(Error::store(format_args!("complete image {digest}")))?;
        }
        let Some(record) = self.records.get(digest)? else { return Ok(false) };
        let diff_ids = record.diff_ids()?;
        let (objects, layers) = (&*self.objects, &pending.layers);
        let checked = match self.diff_ids {
            DiffIds::Off => Ok(()),
            _ => contents::check_diff_ids(objects, layers, &diff_ids, &pending.new_layers, workers),
        };
        if let Err(why) = checked {
            // Removed, swept and there again meanwhile: what was made before the sweep is no fault of the image.
            let made = pending.order.iter().all(|content| objects.has(content).unwrap_or(false));
            if !made {
                self.work.ask();
            }
            if !made || why.is_unread {
                return Err(Error::Unavailable { what: format!("complete image {digest}: {why}") });
            }
            self.records.reject(digest, &why.to_string())?;
            return Err(Error::Corrupt { what: format!("image {digest} is rejected: {why}") });
        }
        self.objects.sync().map_err(Error::store(format_args!("complete image {digest}")))?;
        self.note_opened();
        self.records.complete(digest, self.is_worth_keeping(digest, &pending))?;
        pending.contents.rest();
        self.pending_lock().remove(&digest);
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(%digest, contents = pending.order.len(), ms, "image is complete");
        Ok(true)
    }

    /// [`Importer::finish`] of every pending image, one after the other, on one thread.
    pub fn finish_all(&self) {
        let images = self.records.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list images");
            Vec::new()
        });
        for digest in images {
            if self.work.is_stopped() {
                return;
            }
            if self.records.is_pending(digest)
                && self.records.rejected(digest).is_none()
                && !self.is_left_given_back(digest)
                && let Err(error) = self.finish_at(digest, NonZeroUsize::MIN, Pace::Background)
            {
                // Removed meanwhile: what was half done goes with it.
                match self.records.get(digest) {
                    Ok(None) => tracing::debug!(%digest, %error, "image has gone"),
                    _ => {
                        tracing::error!(%error, "image is not complete");
                        self.work.ask_after(TRY_AGAIN);
                    }
                }
            }
        }
    }

    /// Keeps the order in which contents of pending images were opened so far.
    pub(super) fn note_opened(&self) {
        for (digest, contents, noted) in self.used_contents() {
            let opened = contents.opened();
            if noted.swap(opened.len(), Ordering::Relaxed) < opened.len() {
                self.note(digest, Order::Opened, &opened);
            }
        }
    }

    /// Notes that an image was read to be served: what that took is given back soon.
    pub fn tell_served(&self) {
        self.work.tell_read();
    }

    /// Gives back what was kept to make contents faster.
    pub(super) fn rest(&self) {
        self.used_contents().iter().for_each(|(_, contents, _)| contents.rest());
        d4c_sys::trim_memory();
    }

    fn used_contents(&self) -> Vec<(Digest, Arc<Contents>, Arc<AtomicUsize>)> {
        let known = self.pending_lock();
        let used = known
            .iter()
            .filter_map(|(digest, one)| Some((*digest, one.contents.upgrade()?, Arc::clone(&one.noted))));
        used.collect()
    }

    fn note(&self, digest: Digest, which: Order, opened: &[Digest]) {
        if !opened.is_empty()
            && let Err(error) = self.records.set_order(digest, which, opened)
        {
            tracing::warn!(%digest, %error, "the order of first opens is not kept");
        }
    }
}

/// The order in which the parent's contents were opened, for the contents of `image`: what is made from one of them takes its
/// place.
fn carried_over(opened: &[Digest], image: &Image) -> Vec<Digest> {
    let mut left: HashSet<Digest> =
        image.layers.iter().flat_map(|layer| layer.contents()).map(|content| content.digest).collect();
    let mut made: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for recipe in image.recipes.values() {
        if let Some(base) = recipe.base {
            made.entry(base.digest).or_default().push(recipe.content.digest);
        }
    }
    let followed =
        opened.iter().flat_map(|one| made.remove(one).unwrap_or_default().into_iter().chain([*one]));
    // Each once, and none that has gone.
    followed.filter(|one| left.remove(one)).collect()
}
