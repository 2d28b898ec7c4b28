//! Contents made from their recipes, all that are wanted at once, into files without names.
//!
//! Every thread appends to a file of its own; the files are mapped when all is made. Recipes are taken in the order of
//! their frames, those of one frame by one thread, so that a group is decoded once.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use d4c_sys::{Map, Sparse, on_threads};
use dimg::Digest;
use dimg::content::{Bytes, ContentSource, open_exact};
use dimg::format::{Dimg, Recipe};
use dimg::index::Content;

use super::{Delta, Opener};
use crate::failure::{Failure, Kind, Reason};
use crate::progress::Unit;

const BUFFER_BYTES: usize = 256 << 10;

/// Contents from this size on may be worked on by several threads.
const SHARED_BYTES: u64 = 4 << 20;

/// Contents that were made.
pub(super) struct Made {
    files: Vec<Bytes>,
    places: HashMap<Digest, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    file: usize,
    offset: u64,
    bytes: u64,
}

impl ContentSource for Made {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        let Some(place) = self.places.get(&content.digest) else { return Ok(None) };
        let slice = || {
            let start = usize::try_from(place.offset).ok()?;
            let end = start.checked_add(usize::try_from(place.bytes).ok()?)?;
            self.files.get(place.file)?.slice(start..end)
        };
        Ok(slice())
    }
}

/// Makes those contents of `delta` that are in `wanted` from `base`; each has its digest then.
///
/// # Errors
/// The file or a base is damaged, a base is missing, or there is no room.
pub(super) fn make(
    delta: &Delta,
    recipes: &HashMap<Digest, Recipe>,
    wanted: &HashSet<Digest>,
    base: &dyn ContentSource,
    opener: &Opener<'_>,
) -> Result<Made, Failure> {
    let mut chosen: Vec<&Recipe> =
        recipes.values().filter(|recipe| wanted.contains(&recipe.content.digest)).collect();
    chosen.sort_by_key(|recipe| (recipe.place(), recipe.content.digest));
    let batches: Vec<&[&Recipe]> = chosen.chunk_by(|a, b| a.place().0 == b.place().0).collect();
    let bytes: u64 = chosen.iter().map(|recipe| recipe.content.size).sum();
    opener.progress.stage("make contents", Unit::Bytes, bytes);

    delta.file.dimg().share_memory(Arc::clone(&opener.memory));
    let next = AtomicUsize::new(0);
    let count = opener.threads.get();
    let left = AtomicU64::new(bytes);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let fail = |failure| {
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        next.store(usize::MAX / 2, Ordering::Relaxed);
    };
    let workers = Mutex::new(Vec::new());
    let work = || {
        let mut worker = match Worker::new(delta, base, opener.tmpdir) {
            Ok(worker) => worker,
            Err(failure) => {
                fail(failure);
                return;
            }
        };
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            for recipe in *batch {
                // A content of more than its share of what is left would keep one thread busy while the rest wait.
                let size = recipe.content.size;
                let share = left.fetch_sub(size, Ordering::Relaxed) / count as u64;
                let threads = if size >= share.max(SHARED_BYTES) { count } else { 1 };
                if let Err(failure) = worker.make(recipe, threads) {
                    fail(failure);
                    return;
                }
                opener.progress.add(size);
            }
        }
        workers.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    };
    on_threads(count.min(batches.len()), work);
    if let Some(failure) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(failure);
    }
    let mut made = Made { files: Vec::new(), places: HashMap::with_capacity(chosen.len()) };
    for worker in workers.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let number = made.files.len();
        let (map, places) = worker.finish()?;
        made.files.push(Bytes::new(map));
        for (digest, offset, bytes) in places {
            made.places.insert(digest, Place { file: number, offset, bytes });
        }
    }
    Ok(made)
}

/// A content, its offset in the worker's file, its size.
type Written = (Digest, u64, u64);

struct Worker<'a> {
    delta: &'a Delta,
    dimg: &'a Dimg,
    base: &'a dyn ContentSource,
    tmpdir: &'a Path,
    out: BufWriter<Sparse<File>>,
    offset: u64,
    places: Vec<Written>,
}

impl<'a> Worker<'a> {
    fn new(delta: &'a Delta, base: &'a dyn ContentSource, tmpdir: &'a Path) -> Result<Self, Failure> {
        let file = tempfile::tempfile_in(tmpdir).map_err(Failure::io("make temporary file", tmpdir))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, Sparse::new(file));
        let dimg = delta.file.dimg();
        Ok(Self { delta, dimg, base, tmpdir, out, offset: 0, places: Vec::new() })
    }

    fn make(&mut self, recipe: &Recipe, threads: usize) -> Result<(), Failure> {
        let base = match &recipe.base {
            None => None,
            Some(content) => Some(open_exact(self.base, content).map_err(|error| {
                let kind = match error.kind() {
                    io::ErrorKind::InvalidData => Kind::Corrupt,
                    _ => Kind::of_io(&error),
                };
                Failure::new(kind, "read base", content.digest, Reason(&error))
            })?),
        };
        let tmpdir = self.tmpdir;
        let scratch = || tempfile::tempfile_in(tmpdir);
        self.dimg
            .make_on(threads, recipe, base.as_deref(), &mut self.out, &scratch)
            .map_err(|error| self.failure(error))?;
        let Content { digest, size } = recipe.content;
        self.places.push((digest, self.offset, size));
        self.offset += size;
        Ok(())
    }

    /// What could not be written went to the temporary directory, not to the delta.
    fn failure(&self, error: dimg::format::DimgError) -> Failure {
        match error {
            dimg::format::DimgError::Output(source) => {
                Failure::io("write temporary file in", self.tmpdir)(source)
            }
            error => Failure::delta(&self.delta.path)(error),
        }
    }

    fn finish(self) -> Result<(Map, Vec<Written>), Failure> {
        let failed = |error| Failure::io("write temporary file in", self.tmpdir)(error);
        let out = self.out.into_inner().map_err(|error| failed(error.into_error()))?;
        let map = Map::file(&out.finish().map_err(failed)?).map_err(failed)?;
        Ok((map, self.places))
    }
}
