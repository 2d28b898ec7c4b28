//! The directory of deltas: cdimgs that someone put there, and `made-…` files of our own, which go when there are too many.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use d4c_image::delta::{NewDelta, Published};
use d4c_sys::Map;
use dimg::Digest;
use dimg::format::Stat;

use super::jobs::Job;
use crate::failure::Failure;
use crate::image::Delta;
use crate::interrupt::Pending;

const OURS: &str = "made-";
/// Digests remembered at most.
const MAX_DIGESTS: usize = 10_000;

/// Size and time of change of a file, and what was read of it; none for what is no cdimg.
type Known = (u64, SystemTime, Option<Published>);

/// Deltas in a directory.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    limit_bytes: u64,
    /// By path.
    known: Mutex<HashMap<PathBuf, Known>>,
    /// Of files that were sent, by path, with size and time of change.
    digests: Mutex<HashMap<PathBuf, (u64, SystemTime, Digest)>>,
    /// Removes the directory of a server that was given none.
    _temporary: Option<Pending>,
}

impl Store {
    /// Opens `dir`, or makes a temporary directory in `tmpdir`.
    ///
    /// # Errors
    /// It is not there and cannot be made.
    pub(super) fn open(dir: Option<PathBuf>, limit_bytes: u64, tmpdir: &Path) -> Result<Self, Failure> {
        let temporary = match &dir {
            Some(_) => None,
            None => {
                let made = tempfile::Builder::new().prefix("d4c-serve-").tempdir_in(tmpdir);
                let made = made.map_err(Failure::io("make directory in", tmpdir))?;
                // A signal ends the process without dropping anything.
                Some(Pending::new(made.keep()))
            }
        };
        let dir = dir.or_else(|| Some(temporary.as_ref()?.path().to_owned())).unwrap_or_default();
        fs::create_dir_all(&dir).map_err(Failure::io("make directory", &dir))?;
        let (known, digests) = Default::default();
        Ok(Self { dir, limit_bytes, known, digests, _temporary: temporary })
    }

    /// Where the delta of a job is or would be.
    pub(super) fn path(&self, job: Job) -> PathBuf {
        let (repository, (want, have)) = (job.repository.hex(), job.pair);
        self.dir.join(format!("{OURS}{repository}-{}-{}.cdimg", want.hex(), have.hex()))
    }

    /// The deltas that are there for `repository`: those that someone put there, and of our own what was made for it. Each has the digest of
    /// its path instead of a manifest's, by which [`Store::find`] knows it.
    pub(super) fn list(&self, repository: Digest) -> Vec<(Published, PathBuf)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = HashMap::new();
        for (path, meta) in files(&self.dir) {
            let stamp = (meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            let read = match known.remove(&path) {
                Some((bytes, changed, read)) if (bytes, changed) == stamp => read,
                _ => read(&path),
            };
            seen.insert(path, (stamp.0, stamp.1, read));
        }
        let list = seen.iter().filter(|(path, _)| is_for(path, repository));
        let list = list.filter_map(|(path, (.., read))| Some((read.clone()?, path.clone())));
        let mut list: Vec<_> = list.collect();
        list.sort_by(|a, b| a.1.cmp(&b.1));
        *known = seen;
        list
    }

    /// A file to be sent, and its digest.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(&self, path: &Path) -> io::Result<(Map, Digest)> {
        let file = File::open(path)?;
        let (meta, map) = (file.metadata()?, Map::file(&file)?);
        let stamp = (meta.len(), meta.modified()?);
        let digests = || self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let known = digests().get(path).copied();
        if let Some((bytes, changed, digest)) = known
            && (bytes, changed) == stamp
        {
            return Ok((map, digest));
        }
        let digest = Digest::of(&map);
        let mut digests = digests();
        // Files go.
        if digests.len() >= MAX_DIGESTS {
            digests.clear();
        }
        digests.insert(path.to_owned(), (stamp.0, stamp.1, digest));
        Ok((map, digest))
    }

    /// Removes the oldest of our own files until they have room, `keep` never; how many.
    pub(super) fn evict(&self, keep: &Path) -> u64 {
        let mut ours: Vec<(SystemTime, PathBuf, u64)> = files(&self.dir)
            .filter(|(path, _)| made_for(path).is_some())
            .map(|(path, meta)| (meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), path, meta.len()))
            .collect();
        ours.sort();
        let mut bytes: u64 = ours.iter().map(|(.., bytes)| bytes).sum();
        let mut removed = 0;
        for (_, path, size) in ours {
            if bytes <= self.limit_bytes {
                break;
            }
            // Whoever is sending it has it open.
            if path != keep && fs::remove_file(&path).is_ok() {
                bytes -= size;
                removed += 1;
            }
        }
        removed
    }
}

/// Of a file of our own: what its name says behind that.
fn made_for(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix(OURS)
}

fn is_for(path: &Path, repository: Digest) -> bool {
    made_for(path).is_none_or(|name| name.starts_with(&format!("{}-", repository.hex())))
}

fn files(dir: &Path) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.into_iter().filter_map(|entry| {
        let path = entry.path();
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        let is_cdimg = path.extension().is_some_and(|extension| extension == "cdimg");
        let meta = fs::metadata(&path).ok()?;
        (is_cdimg && !hidden && meta.is_file()).then_some((path, meta))
    })
}

fn read(path: &Path) -> Option<Published> {
    let about = || -> Result<Option<Published>, Failure> {
        let delta = Delta::open(path, path.parent().unwrap_or(path))?;
        let Some(cdimg) = delta.file.cdimg() else { return Ok(None) };
        let stat = Stat::of(&delta.file, delta.bytes).map_err(Failure::delta(path))?;
        let new = NewDelta::of(cdimg, stat.full_bytes)?;
        Ok(Some(Published {
            manifest: Digest::of(path.as_os_str().as_encoded_bytes()),
            target: new.subject.digest,
            source: new.source,
            bytes: delta.bytes,
            blob: None,
            made_bytes: new.made_bytes,
        }))
    };
    about().unwrap_or_else(|failure| {
        tracing::warn!(path = %path.display(), %failure, "left out");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path().to_owned()), 25, dir.path()).unwrap();
        let job = |number: u8| Job::new("r.example/app", (Digest([number; 32]), Digest([0; 32])));
        for number in 0..4 {
            fs::write(store.path(job(number)), [0; 10]).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(number));
            File::options().write(true).open(store.path(job(number))).unwrap().set_modified(time).unwrap();
        }
        fs::write(dir.path().join("other.cdimg"), [0; 100]).unwrap();
        assert_eq!(store.evict(&store.path(job(0))), 2);
        let there = |number| store.path(job(number)).exists();
        assert_eq!([there(0), there(1), there(2), there(3)], [true, false, false, true]);
        assert!(dir.path().join("other.cdimg").exists() && store.list(job(0).repository).is_empty());
    }

    #[test]
    fn what_was_made_for_a_repository_is_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(Some(dir.path().to_owned()), 0, dir.path()).unwrap();
        let pair = (Digest([1; 32]), Digest([2; 32]));
        let [app, other] = ["r.example/app", "r.example/other"].map(|name| Job::new(name, pair));
        assert_ne!(store.path(app), store.path(other));
        assert!(is_for(&store.path(app), app.repository) && !is_for(&store.path(app), other.repository));
        let before = dir.path().join(format!("{OURS}{}-{}.cdimg", pair.0.hex(), pair.1.hex()));
        assert!(!is_for(&before, app.repository), "of a server that kept them for all");
        assert!(is_for(&dir.path().join("put-there.cdimg"), app.repository));
    }
}
