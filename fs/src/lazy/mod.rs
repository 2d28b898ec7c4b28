//! Contents that are made when they are asked for.
//!
//! [`Contents`] knows, of an image made by a chain of delta files, how each content is made: by the recipe of the first
//! file on the way that makes it, or by copying it from an image that the chain starts from. A recipe's base is a content
//! of the image before, so the way to any content leads strictly towards the start of the chain and ends. What is made
//! goes to an [`ObjectStore`]: once, however many ask, and verified; nobody waits until it is on the disk.

mod ahead;
mod job;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dimg::Digest;
use dimg::content::ContentSource;
use dimg::format::{DeltaFile, Recipe};
use dimg::index::Content;

use crate::store::{Job, ObjectStore, StoreError};
use ahead::Ahead;
use job::{Copy, Make};

/// Decoded groups of small contents kept of a file, of up to 4 MiB each: whoever goes through a tree opens files of many kinds in turn, and
/// a group is of one kind. Those of whole contents are in files without names beside the objects, the others in memory.
const KEPT_GROUPS: NonZeroUsize = NonZeroUsize::new(8).expect("it is not 0");
const KEPT_IN_FILES: NonZeroUsize = NonZeroUsize::new(64).expect("it is not 0");

/// A group is kept in a file only where the disk has as much left after it: room that someone waits for is not for what can be decoded again.
const ROOM_BESIDE_GROUPS: u64 = 16 << 20;

/// So often a content is tried again after room was made for it: others may have taken that.
const TRIES: usize = 8;

/// As many contents are remembered in the order in which they were opened.
const MOST_OPENED: usize = 1 << 16;

/// A delta file and what it makes.
pub struct Step {
    /// The file.
    pub file: Arc<DeltaFile>,
    /// Its recipes by what they make, as [`dimg::format::Dimg::resolve`] gives them.
    pub recipes: HashMap<Digest, Recipe>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Step({}, {} recipes)", self.file.format(), self.recipes.len())
    }
}

/// The contents of an image, there or to be made. Shared by the threads that serve it.
pub struct Contents {
    store: Arc<ObjectStore>,
    steps: Vec<Step>,
    /// For each step.
    ahead: Vec<Ahead>,
    sources: Vec<Arc<dyn ContentSource>>,
    /// For a large content that somebody waits for; asked for once, which costs more than many a content.
    threads: usize,
    failed: AtomicU64,
    /// Those whose failure was logged: a reader that tries again and again fills no log.
    logged: Mutex<HashSet<Digest>>,
    /// Those made because they were asked for one by one, in that order.
    opened: Mutex<Opened>,
}

/// An order of first opens, each content once.
#[derive(Debug, Default)]
struct Opened {
    order: Vec<Digest>,
    known: HashSet<Digest>,
}

impl Opened {
    fn push(&mut self, content: Digest) {
        if self.order.len() < MOST_OPENED && self.known.insert(content) {
            self.order.push(content);
        }
    }
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("store", &self.store)
            .field("steps", &self.steps)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}

/// How a content is made.
#[derive(Clone, Copy)]
enum Way<'a> {
    Recipe(usize, &'a Recipe),
    Source,
}

impl Contents {
    /// The contents that `steps`, a chain of deltas, make into `store`, within its memory. Contents that no step makes are those of the image
    /// that the chain starts from: `sources` have them, or the store has.
    pub fn new(store: Arc<ObjectStore>, steps: Vec<Step>, sources: Vec<Arc<dyn ContentSource>>) -> Self {
        for step in &steps {
            let (dimg, dir) = (step.file.dimg(), store.root().to_owned());
            dimg.share_memory(Arc::clone(store.memory()));
            dimg.keep_groups(KEPT_GROUPS);
            dimg.keep_groups_in_files(KEPT_IN_FILES, move |bytes| group_file(&dir, bytes));
        }
        Self {
            store,
            ahead: steps.iter().map(|_| Ahead::default()).collect(),
            steps,
            sources,
            threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            failed: AtomicU64::new(0),
            logged: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// Goes on with an order of [`Contents::opened`] that an earlier process noted.
    #[must_use]
    pub fn with_opened(self, opened: impl IntoIterator<Item = Digest>) -> Self {
        opened.into_iter().for_each(|content| self.opened_lock().push(content));
        self
    }

    fn opened_lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back what is kept to make further contents faster.
    pub fn rest(&self) {
        self.steps.iter().for_each(|step| step.file.dimg().forget_groups());
        if let Err(error) = self.store.forget_fresh() {
            tracing::warn!(%error, "contents keep their second names");
        }
    }

    /// Where contents are made to.
    pub fn store(&self) -> &Arc<ObjectStore> {
        &self.store
    }

    /// Contents asked for that could not be made, each time counted.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The contents that [`Contents::ensure`] had to make, the first asked for first, up to 65,536.
    pub fn opened(&self) -> Vec<Digest> {
        self.opened_lock().order.clone()
    }

    /// The object of `content`, made first when it is not there, with the bases that it needs.
    ///
    /// # Errors
    /// It cannot be made: a recipe or a base is damaged or missing, or the disk is full. Counted, and logged once for
    /// each content; what can be done about it is done at the next try.
    pub fn ensure(&self, content: &Content) -> Result<File, StoreError> {
        if let Some(file) = self.counted(content, self.store.get(content))? {
            return Ok(file);
        }
        self.make(content)?;
        let missing = StoreError::NotMade { digest: content.digest };
        self.counted(content, self.store.get(content).and_then(|file| file.ok_or(missing)))
    }

    /// As [`Contents::ensure`], for who opens the object by other means.
    ///
    /// # Errors
    /// As for [`Contents::ensure`].
    pub fn prepare(&self, content: &Content) -> Result<(), StoreError> {
        match self.counted(content, self.store.has(content))? {
            true => Ok(()),
            false => self.make(content),
        }
    }

    /// Makes a content that is not there.
    fn make(&self, content: &Content) -> Result<(), StoreError> {
        let mut made = self.try_make(content);
        for _ in 0..TRIES {
            if !matches!(made, Err(StoreError::NoSpace { .. })) {
                break;
            }
            // Decoded groups may be all that is in the way.
            self.rest();
            let removed = self.store.make_room(content.size);
            if !removed && !self.store.has_room(content.size) {
                break;
            }
            made = self.try_make(content);
            if !removed {
                break;
            }
        }
        self.counted(content, made)
    }

    /// Counts and logs what somebody who asked for a content does not get.
    fn counted<T>(&self, content: &Content, made: Result<T, StoreError>) -> Result<T, StoreError> {
        made.inspect_err(|error| {
            self.failed.fetch_add(1, Ordering::Relaxed);
            self.store.note_failed();
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            if logged.insert(content.digest) {
                tracing::error!(digest = %content.digest, bytes = content.size, %error, "content not made");
            }
        })
    }

    fn try_make(&self, content: &Content) -> Result<(), StoreError> {
        let _first = self.store.reading();
        crate::crew::long_work();
        // The way down: from the content to a base that is there or needs none. The same content may be at both ends of it, made again by
        // the later step.
        let mut chain = Vec::new();
        let (mut below, mut at) = (self.steps.len(), *content);
        loop {
            let way = self.way(&at, below);
            chain.push((at, way));
            let Way::Recipe(step, Recipe { base: Some(base), .. }) = way else { break };
            if self.store.has(base)? {
                break;
            }
            (below, at) = (step, *base);
        }
        for (content, way) in chain.iter().rev() {
            self.make_one(content, *way)?;
        }
        self.opened_lock().push(content.digest);
        self.make_ahead(content);
        Ok(())
    }

    /// Makes what seems to be opened next. If that fails, whoever opens it is told.
    fn make_ahead(&self, asked: &Content) {
        let Way::Recipe(number, recipe) = self.way(asked, self.steps.len()) else { return };
        let step = &self.steps[number];
        let has = |base: &Content| self.store.has(base).unwrap_or(false);
        let next = self.ahead[number].behind(recipe, &step.recipes);
        let next: Vec<&Recipe> = next.filter(|next| next.base.as_ref().is_some_and(has)).collect();
        if next.is_empty() {
            return;
        }
        match self.make_by(step, &next, NonZeroUsize::MIN) {
            Ok(()) => next.iter().for_each(|next| self.opened_lock().push(next.content.digest)),
            Err(error) => tracing::debug!(%error, "nothing made ahead"),
        }
    }

    /// Makes what `recipes`, all of one step, make.
    fn make_by(&self, step: &Step, recipes: &[&Recipe], workers: NonZeroUsize) -> Result<(), StoreError> {
        let dimg = step.file.dimg();
        let jobs = recipes.iter().map(|recipe| Make::new(&self.store, dimg, recipe, &self.sources));
        let jobs: Vec<_> = jobs.collect();
        self.store.make_unflushed(&jobs.iter().map(|job| job as &dyn Job).collect::<Vec<_>>(), workers)
    }

    /// The earliest step that makes `content`, among the first `below` of them.
    fn way(&self, content: &Content, below: usize) -> Way<'_> {
        let steps = self.steps.iter().take(below).enumerate();
        let mut found = steps.filter_map(|(number, step)| Some((number, step.recipes.get(&content.digest)?)));
        found.next().map_or(Way::Source, |(number, recipe)| Way::Recipe(number, recipe))
    }

    fn make_one(&self, content: &Content, way: Way<'_>) -> Result<(), StoreError> {
        let make = |job: &dyn Job| self.store.make_unflushed(&[job], NonZeroUsize::MIN);
        match way {
            Way::Recipe(step, recipe) => {
                // Somebody waits for it.
                let job = Make::new(&self.store, self.steps[step].file.dimg(), recipe, &self.sources);
                make(&job.on(self.threads))
            }
            Way::Source => make(&Copy::new(*content, &self.sources)),
        }
    }

    /// Makes all of `wanted` that are not there, and the bases that they need, on `workers` threads.
    ///
    /// # Errors
    /// The first failure; what was made before stays.
    pub fn ensure_all(&self, wanted: &[Content], workers: NonZeroUsize) -> Result<(), StoreError> {
        // By step, those copied from a source first.
        let mut by_step: Vec<HashMap<Digest, Content>> = vec![HashMap::new(); self.steps.len() + 1];
        let mut pending = wanted.to_vec();
        while let Some(content) = pending.pop() {
            if self.store.has(&content)? {
                continue;
            }
            let (number, base) = match self.way(&content, self.steps.len()) {
                Way::Recipe(step, recipe) => (step + 1, recipe.base),
                Way::Source => (0, None),
            };
            if by_step[number].insert(content.digest, content).is_none() {
                pending.extend(base);
            }
        }
        let (copied, made) = by_step.split_first().expect("there is one more than there are steps");
        let copies: Vec<_> = copied.values().map(|content| Copy::new(*content, &self.sources)).collect();
        self.store
            .make_unflushed(&copies.iter().map(|copy| copy as &dyn Job).collect::<Vec<_>>(), workers)?;
        for (step, contents) in self.steps.iter().zip(made) {
            let mut recipes: Vec<&Recipe> =
                contents.keys().filter_map(|digest| step.recipes.get(digest)).collect();
            // Along the file, so that a group of small ones is decoded once.
            recipes.sort_unstable_by_key(|recipe| (recipe.place(), recipe.content.digest));
            self.make_by(step, &recipes, workers)?;
        }
        Ok(())
    }
}

/// A file without a name for a group of so many bytes.
fn group_file(dir: &Path, bytes: usize) -> io::Result<File> {
    let stat = d4c_sys::statvfs(dir)?;
    match stat.f_bavail.saturating_mul(stat.f_frsize) < ROOM_BESIDE_GROUPS.saturating_add(bytes as u64) {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => tempfile::tempfile_in(dir),
    }
}

/// What [`Contents`] has as objects now, and what it can make: asking makes.
impl ContentSource for Contents {
    fn open(&self, content: &Content) -> io::Result<Option<dimg::content::Bytes>> {
        if content.size == 0 {
            return Ok(Some(dimg::content::Bytes::default()));
        }
        let file = self.ensure(content).map_err(io::Error::other)?;
        Ok(Some(dimg::content::Bytes::new(d4c_sys::Map::file(&file)?)))
    }

    fn file(&self, content: &Content) -> io::Result<Option<File>> {
        self.ensure(content).map(Some).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
