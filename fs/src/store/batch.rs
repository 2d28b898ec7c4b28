//! Making many contents at once.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use d4c_sys::{Sparse, on_threads};
use dimg::index::Content;
use dimg::{Digest, Hasher};

use super::claims::Claim;
use super::{ObjectStore, StoreError};

/// Up to this many objects are flushed one by one; more of them with the whole file system.
const FLUSH_EACH: usize = 4;

/// Makes contents: one, or several that are stored together. Run by one thread, maybe more than once.
pub trait Job: Send + Sync {
    /// What it makes.
    fn contents(&self) -> &[Content];

    /// Makes them, in any order: for each, [`Output::begin`], then all its bytes.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn make(&self, output: &mut Output<'_>) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Takes the contents of one job.
#[derive(Debug)]
pub struct Output<'a> {
    batch: &'a Batch<'a>,
    wanted: HashSet<Digest>,
    current: Option<Writing>,
    staged: Vec<(Content, PathBuf)>,
    /// The first failure of ours, which tells more than what a job makes of it.
    failure: Option<StoreError>,
}

#[derive(Debug)]
struct Writing {
    content: Content,
    path: PathBuf,
    file: Sparse<File>,
    hasher: Hasher,
    written: u64,
}

impl Output<'_> {
    /// Whether `content` is to be written now; when not, it is there already and its bytes need not be made. Ends the content
    /// before it.
    ///
    /// # Errors
    /// The content before it was not what it should be, or a file cannot be made; the job should end.
    pub fn begin(&mut self, content: &Content) -> io::Result<bool> {
        self.end()?;
        if !self.wanted.remove(&content.digest) {
            return Ok(false);
        }
        let path = self.batch.staging(&content.digest);
        // The mode holds for later openings; this one may write.
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path);
        match file {
            Ok(file) => {
                let (content, file, hasher) = (*content, Sparse::new(file), Hasher::new());
                self.current = Some(Writing { content, path, file, hasher, written: 0 });
                Ok(true)
            }
            Err(error) => Err(self.fail(StoreError::io("make object", path, error))),
        }
    }

    /// Ends the current content: checks what it became.
    fn end(&mut self) -> io::Result<()> {
        let Some(writing) = self.current.take() else { return Ok(()) };
        let actual = writing.hasher.finish();
        let expected = writing.content;
        if actual != expected.digest || writing.written != expected.size {
            return Err(self.fail(StoreError::Wrong {
                expected: expected.digest,
                expected_bytes: expected.size,
                actual,
                actual_bytes: writing.written,
            }));
        }
        if let Err(error) = writing.file.finish() {
            return Err(self.fail(StoreError::io("write object", &writing.path, error)));
        }
        self.staged.push((writing.content, writing.path));
        Ok(())
    }

    fn fail(&mut self, error: StoreError) -> io::Error {
        let short = io::Error::other(error.to_string());
        self.failure.get_or_insert(error);
        short
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(writing) = &mut self.current else {
            return Err(io::Error::other("no content was begun, or it was not wanted"));
        };
        let after = writing.written.saturating_add(bytes.len() as u64);
        if after > writing.content.size {
            // Stop here: a recipe may go on for ever.
            let Content { digest, size } = writing.content;
            let actual = std::mem::take(&mut writing.hasher).finish();
            let wrong =
                StoreError::Wrong { expected: digest, expected_bytes: size, actual, actual_bytes: after };
            return Err(self.fail(wrong));
        }
        if let Err(error) = writing.file.write_all(bytes) {
            let path = self.batch.store.path(&writing.content);
            return Err(self.fail(StoreError::io("write object", path, error)));
        }
        writing.hasher.update(bytes);
        writing.written = after;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The files and claims of one round of making. Its files lie side by side with those of others: a directory made and removed for
/// every content that is opened costs more than most contents.
#[derive(Debug)]
struct Batch<'a> {
    store: &'a ObjectStore,
    id: u64,
    /// Whether objects are on the disk before they get their names.
    flush: bool,
    claimed: Mutex<Vec<Digest>>,
    staged: Mutex<Vec<(Content, PathBuf)>>,
    /// Contents that others are making.
    awaited: Mutex<Vec<Content>>,
    /// All that was staged has its name: nothing is left to be removed.
    named: bool,
}

impl ObjectStore {
    /// Makes every content of `jobs` that the store does not have, on `workers` threads. The jobs are taken in their order, in
    /// rounds: one ends early when someone else waits for a content of it, who gets it then and not after all of them.
    ///
    /// # Errors
    /// The first failure; nothing of this call is in the store then, unless others made it too or it came from an
    /// earlier round.
    pub fn make(&self, jobs: &[&dyn Job], workers: NonZeroUsize) -> Result<(), StoreError> {
        self.make_as(jobs, workers, self.durable)
    }

    /// As [`ObjectStore::make`], but what was made outlives a crash of the machine only after [`ObjectStore::sync`]: nobody waits for
    /// the disk.
    ///
    /// # Errors
    /// As for [`ObjectStore::make`].
    pub fn make_unflushed(&self, jobs: &[&dyn Job], workers: NonZeroUsize) -> Result<(), StoreError> {
        self.make_as(jobs, workers, false)
    }

    fn make_as(&self, jobs: &[&dyn Job], workers: NonZeroUsize, flush: bool) -> Result<(), StoreError> {
        let _hold = self.hold();
        let mut jobs = jobs.to_vec();
        loop {
            let (mut left, mut awaited) = (&*jobs, Vec::new());
            while !left.is_empty() {
                let (taken, theirs) = self.make_round(left, workers, flush)?;
                awaited.extend(theirs);
                left = left.get(taken..).unwrap_or_default();
            }
            // Ours are published: no one who waits for them can keep the ones that we wait for.
            let mut missing = HashSet::new();
            for content in awaited {
                self.claims.wait(content.digest);
                if !self.has(&content)? {
                    missing.insert(content.digest);
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            jobs.retain(|job| job.contents().iter().any(|content| missing.contains(&content.digest)));
        }
    }

    /// How many of the jobs were taken, and contents of these that others are making.
    fn make_round(
        &self,
        jobs: &[&dyn Job],
        workers: NonZeroUsize,
        flush: bool,
    ) -> Result<(usize, Vec<Content>), StoreError> {
        let id = self.next_batch.fetch_add(1, Ordering::Relaxed);
        let (claimed, staged, awaited) = Default::default();
        let batch = Batch { store: self, id, flush, claimed, staged, awaited, named: false };
        let (next, stop, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let ran = batch.run(*job);
                if self.claims.is_awaited(id) {
                    stop.store(true, Ordering::Relaxed);
                }
                if let Err(error) = ran {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            }
        };
        on_threads(workers.get().min(jobs.len()), work);
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok((next.into_inner().min(jobs.len()), batch.publish()?)),
        }
    }
}

impl Batch<'_> {
    /// Where the content is while it is written.
    fn staging(&self, digest: &Digest) -> PathBuf {
        self.store.staging().join(format!("{}.{}", self.id, digest.hex()))
    }

    fn run(&self, job: &dyn Job) -> Result<(), StoreError> {
        let wanted = self.wanted(job.contents())?;
        if wanted.is_empty() {
            return Ok(());
        }
        let mut output = Output { batch: self, wanted, current: None, staged: Vec::new(), failure: None };
        let made = job.make(&mut output);
        // Checks the last one, unless the job gave up within it.
        let ended = if made.is_ok() { output.end() } else { Ok(()) };
        if let Some(error) = output.failure {
            return Err(error);
        }
        made.map_err(|source| match source.downcast_ref::<io::Error>() {
            // What a recipe makes in between is on our disk too.
            Some(error) if crate::is_no_space(error) => {
                StoreError::NoSpace { action: "make content in", path: self.store.root().to_owned() }
            }
            _ => StoreError::Make { source },
        })?;
        ended.map_err(|error| StoreError::io("make object", self.store.staging(), error))?;
        if let Some(&digest) = output.wanted.iter().next() {
            return Err(StoreError::NotMade { digest });
        }
        lock(&self.staged).append(&mut output.staged);
        Ok(())
    }

    /// Claims those of `contents` that are to be made here.
    fn wanted(&self, contents: &[Content]) -> Result<HashSet<Digest>, StoreError> {
        let claims = self.store.claims.claim(contents, self.id);
        let with = |claim| {
            let all = contents.iter().zip(&claims);
            all.filter(move |(_, is)| **is == claim).map(|(content, _)| content)
        };
        lock(&self.awaited).extend(with(Claim::Theirs));
        let (mut wanted, mut failure) = (HashSet::new(), None);
        for content in with(Claim::New) {
            // Only now: its maker may just have finished.
            let there = self.store.has(content);
            if matches!(there, Ok(false)) {
                wanted.insert(content.digest);
                continue;
            }
            self.store.claims.give_up(content.digest);
            self.store.counters.reused.fetch_add(u64::from(there.is_ok()), Ordering::Relaxed);
            failure = failure.or(there.err());
        }
        lock(&self.claimed).extend(&wanted);
        failure.map_or(Ok(wanted), Err)
    }

    /// Flushes what was made and gives it its names; gives what others are still making.
    fn publish(mut self) -> Result<Vec<Content>, StoreError> {
        let staged = std::mem::take(&mut *lock(&self.staged));
        let flush = || -> io::Result<()> {
            if !self.flush {
                return Ok(());
            }
            if staged.len() > FLUSH_EACH {
                return d4c_sys::syncfs(File::open(self.store.staging())?);
            }
            staged.iter().try_for_each(|(_, path)| File::open(path)?.sync_all())
        };
        flush().map_err(|error| StoreError::io("flush objects", self.store.staging(), error))?;
        let _naming = match self.flush || !self.store.durable || staged.is_empty() {
            true => None,
            false => Some(self.store.unflushed.begin()?),
        };
        for (content, from) in &staged {
            let path = self.store.path(content);
            let renamed = match fs::rename(from, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let fan = path.parent().unwrap_or(&path);
                    fs::create_dir_all(fan).and_then(|()| fs::rename(from, &path))
                }
                renamed => renamed,
            };
            renamed.map_err(|error| StoreError::io("name object", path, error))?;
            self.store.counters.made.fetch_add(1, Ordering::Relaxed);
            self.store.counters.made_bytes.fetch_add(content.size, Ordering::Relaxed);
        }
        if !staged.is_empty() {
            self.store.grown();
        }
        self.named = true;
        Ok(std::mem::take(&mut *lock(&self.awaited)))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let claimed = std::mem::take(&mut *lock(&self.claimed));
        let left = if self.named { &[][..] } else { &claimed };
        for path in left.iter().map(|digest| self.staging(digest)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "staged content not removed");
                }
                _ => {}
            }
        }
        self.store.claims.release(self.id, claimed);
    }
}

/// What these locks guard is whole at any moment: a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
