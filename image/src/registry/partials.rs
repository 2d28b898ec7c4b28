//! The folder of downloads that later processes go on with, each named by its blob's digest: `sha256-HEX.part`.
//!
//! Of what nobody has locked, files that were not written to for a week are removed, then the oldest until all have at most so many bytes: by [`Partials::sweep`], and
//! whenever a download begins. A blob that another process downloads just now gets a file with another name, which ends with its download.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dimg::Digest;

use super::partial::{Partial, is_at, last_record};
use super::request::random_fraction;
use crate::error::SourceError;
use crate::manifest::Descriptor;

/// What is kept of all downloads that broke off, when nothing else is said.
pub const PARTIAL_BYTES: u64 = 4 << 30;
/// For how long.
const MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
const END: &str = ".part";
const WHAT: &str = "make file for download";
/// Times that a file may be removed between being opened and being locked.
const ATTEMPTS: usize = 8;

/// A folder of downloads.
#[derive(Debug)]
pub struct Partials {
    dir: PathBuf,
    max_bytes: u64,
    /// Those that stay until all is done that they are for.
    held: Mutex<Vec<Partial>>,
}

/// A download that broke off, or is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The blob.
    pub digest: Digest,
    /// Bytes that need not be fetched again.
    pub bytes: u64,
}

impl Partials {
    /// The folder `dir`, which is there, and nobody's but the user's. Of what broke off at most `max_bytes` stay.
    pub fn new(dir: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { dir: dir.into(), max_bytes, held: Mutex::default() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a file in the folder is a download.
    pub fn owns(name: &str) -> bool {
        digest(name).is_some()
    }

    /// The file for a blob, with what is there of it.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn begin(&self, blob: &Descriptor) -> Result<Partial, SourceError> {
        let (hex, size) = (blob.digest.hex(), blob.size);
        let path = self.dir.join(format!("sha256-{hex}{END}"));
        let mut begun = self.lock(path, size, true)?;
        if begun.is_none() {
            let random = random_fraction().to_bits();
            begun = self.lock(self.dir.join(format!("sha256-{hex}.{random:016x}{END}")), size, false)?;
        }
        // Behind it, so that this one stays.
        self.sweep();
        begun.ok_or_else(|| {
            SourceError::io(WHAT, &self.dir)(std::io::Error::other("others use all names for it"))
        })
    }

    /// A file for `size` bytes of which nobody tells the digest: it ends with its download.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn begin_unnamed(&self, size: u64) -> Result<Partial, SourceError> {
        let (hex, random) = (Digest([0; 32]).hex(), random_fraction().to_bits());
        let begun = self.lock(self.dir.join(format!("sha256-{hex}.{random:016x}{END}")), size, false)?;
        begun.ok_or_else(|| SourceError::io(WHAT, &self.dir)(std::io::Error::other("others use its name")))
    }

    /// The file at `path`, locked; none where another one has it.
    fn lock(&self, path: PathBuf, size: u64, kept: bool) -> Result<Option<Partial>, SourceError> {
        for _ in 0..ATTEMPTS {
            let mut how = OpenOptions::new();
            how.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = how.open(&path).map_err(SourceError::io(WHAT, &path))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Partial::of(file, path, size, kept).map(Some),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(SourceError::io("lock file", &path)(error)),
            }
        }
        Ok(None)
    }

    /// Keeps a download until [`Partials::remove_held`], or for a later process where this one ends before.
    pub fn hold(&self, partial: Partial) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).push(partial);
    }

    /// What was held has been used.
    pub fn remove_held(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(Partial::remove);
    }

    /// Removes what is old or too much. What cannot be removed stays; the next one finds it.
    pub fn sweep(&self) {
        let now = SystemTime::now();
        let mut left = Vec::new();
        for (path, file) in self.files() {
            let Some(file) = file.try_lock().is_ok().then_some(file).filter(|file| is_at(file, &path)) else {
                continue;
            };
            let Ok(meta) = file.metadata() else { continue };
            let written = meta.modified().unwrap_or(now);
            let is_old = now.duration_since(written).is_ok_and(|age| age > MAX_AGE);
            if is_old || !is_for_others(&path) {
                let _ = fs::remove_file(&path);
            } else {
                left.push((written, meta.blocks().saturating_mul(512), path, file));
            }
        }
        let mut all: u64 = left.iter().fold(0, |sum, (_, bytes, ..)| sum.saturating_add(*bytes));
        left.sort_by_key(|(written, ..)| *written);
        for (_, bytes, path, _lock) in left {
            if all <= self.max_bytes {
                break;
            }
            let _ = fs::remove_file(&path);
            all = all.saturating_sub(bytes);
        }
    }

    /// What is there, in no order. Of a file without a record it is not known what it has: that counts as nothing.
    pub fn list(&self) -> Vec<Kept> {
        let of = |(path, file): (PathBuf, File)| {
            let digest = digest(path.file_name()?.to_str()?)?;
            let record = last_record(&file).ok()?;
            Some(Kept { digest, bytes: record.map_or(0, |(_, _, there)| there.bytes()) })
        };
        self.files().into_iter().filter_map(of).collect()
    }

    fn files(&self) -> Vec<(PathBuf, File)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_str().is_some_and(Self::owns));
        ours.filter_map(|entry| Some((entry.path(), File::open(entry.path()).ok()?))).collect()
    }
}

/// The blob of a download with this name.
fn digest(name: &str) -> Option<Digest> {
    let hex = name.strip_suffix(END)?.strip_prefix("sha256-")?.split('.').next()?;
    format!("sha256:{hex}").parse().ok()
}

/// Whether the name is not only that of whoever made it.
fn is_for_others(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.trim_end_matches(END).split('.').nth(1).is_none()
}
