//! The plugin's metadata, and the directories it speaks of.
//!
//! `<root>/metadata.redb` holds the records (see `tables`), `<root>/snapshots/<number>/{fs,work}` the files.
//! Every operation is one write transaction, durable when it returns. A directory is made before the commit that
//! records it and deleted after the commit that forgets it, so at any moment a directory without a record is
//! worth nothing: the sweep at start, and that of Cleanup, delete such. Numbers are never used twice.
//!
//! Snapshots (`snapshots.rs`) are what containerd knows. Trees (`trees.rs`) are the directories: a private one per
//! snapshot that containerd prepared, and ready ones, built by an import, that any number of committed snapshots
//! share. Ready trees are never listed: containerd would collect them.
//!
//! redb locks its file: a second plugin on the same root is refused. Nothing here is async.

mod reaper;
mod records;
mod snapshots;
mod tables;
mod trees;
mod usage;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use crate::error::{Error, Result};
use reaper::Reaper;
use records::Records;
pub use snapshots::{Created, Layers};
pub use tables::TreeState;
use tables::{CHAINS, CHILDREN, KEY_NEXT, KEY_VERSION, META, SNAPSHOTS, TREES, TreeRecord, VERSION};
pub use trees::{TreeDir, TreeInfo};
pub use usage::disk_usage;

/// The open metadata of one root directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    records: Records,
    next: AtomicU64,
    reaper: Reaper,
}

impl Store {
    /// Opens the store of a root directory, or makes it, and sweeps what a crash has left.
    ///
    /// # Errors
    /// `InUse` if another plugin has it open; `Corrupt` if a later version wrote it.
    pub fn open(root: &Path) -> Result<Self> {
        let root = make_root(root)?;
        let path = root.join("metadata.redb");
        let records = Records::open(path.clone())?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(Error::io("set mode", &path))?;
        let next = AtomicU64::new(prepare_tables(&records)?);
        let store = Self { root, records, next, reaper: Reaper::start()? };
        store.sweep(true)?;
        Ok(store)
    }

    /// The root directory, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the files of directory `number` are.
    #[must_use]
    pub fn fs_path(&self, number: u64) -> PathBuf {
        self.dir(number).join("fs")
    }

    /// The overlay work directory of directory `number`.
    #[must_use]
    pub fn work_path(&self, number: u64) -> PathBuf {
        self.dir(number).join("work")
    }

    /// Deletes directories without a record, and waits until all that is to be deleted is gone.
    ///
    /// # Errors
    /// If the metadata or the directory cannot be read.
    pub fn cleanup(&self) -> Result<()> {
        self.sweep(false)?;
        self.reaper.drain();
        Ok(())
    }

    fn dir(&self, number: u64) -> PathBuf {
        self.root.join("snapshots").join(number.to_string())
    }

    fn write<T>(
        &self,
        action: &'static str,
        change: impl FnOnce(&WriteTransaction) -> Result<T>,
    ) -> Result<T> {
        self.records.write(action, change)
    }

    fn read<T>(&self, action: &'static str, look: impl FnOnce(&ReadTransaction) -> Result<T>) -> Result<T> {
        self.records.read(action, look)
    }

    /// Takes a number and makes its directories; call it inside the transaction that records them.
    fn make_dir(&self, tx: &WriteTransaction) -> Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut meta = tx.open_table(META).map_err(Error::metadata("open table"))?;
        meta.insert(KEY_NEXT, number + 1).map_err(Error::metadata("take a number"))?;
        let dir = self.dir(number);
        make_dirs(&dir).inspect_err(|_| self.reaper.delete(dir.clone()))?;
        Ok(number)
    }

    /// Queues the directories of all numbers that have no record. At start, imports that were under way are over.
    fn sweep(&self, starting: bool) -> Result<()> {
        let orphans = self.write("sweep", |tx| {
            let mut trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
            let mut known = BTreeSet::new();
            let mut half_built = Vec::new();
            for entry in trees.iter().map_err(Error::metadata("list trees"))? {
                let (number, raw) = entry.map_err(Error::metadata("list trees"))?;
                let tree: TreeRecord = tables::decode("tree", number.value(), raw.value())?;
                if starting && tree.state == TreeState::Building {
                    half_built.push(number.value());
                } else {
                    known.insert(number.value());
                }
            }
            for number in half_built {
                trees.remove(number).map_err(Error::metadata("remove tree"))?;
            }
            // Nobody else makes a directory while this transaction is open.
            self.orphans(&known)
        })?;
        for dir in orphans {
            tracing::info!(dir = %dir.display(), "sweeping a directory without a record");
            self.reaper.delete(dir);
        }
        Ok(())
    }

    fn orphans(&self, known: &BTreeSet<u64>) -> Result<Vec<PathBuf>> {
        let dir = self.root.join("snapshots");
        let mut orphans = Vec::new();
        for entry in fs::read_dir(&dir).map_err(Error::io("read directory", &dir))? {
            let entry = entry.map_err(Error::io("read directory", &dir))?;
            match entry.file_name().to_str().and_then(|n| n.parse().ok()) {
                Some(number) if known.contains(&number) => {}
                Some(number) => {
                    self.next.fetch_max(number.saturating_add(1), Ordering::Relaxed);
                    orphans.push(entry.path());
                }
                None => tracing::warn!(path = %entry.path().display(), "not a directory of ours, left alone"),
            }
        }
        Ok(orphans)
    }
}

fn make_root(root: &Path) -> Result<PathBuf> {
    let snapshots = root.join("snapshots");
    let build = |dir: &Path, mode| {
        DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(Error::io("make directory", dir))
    };
    build(root, 0o711)?;
    build(&snapshots, 0o711)?;
    root.canonicalize().map_err(Error::io("find directory", root))
}

/// Makes sure that all tables exist, so that readers need not care, and returns the next free number.
fn prepare_tables(records: &Records) -> Result<u64> {
    records.write("open", |tx| {
        let mut meta = tx.open_table(META).map_err(Error::metadata("open table"))?;
        let version = meta.get(KEY_VERSION).map_err(Error::metadata("read version"))?.map(|v| v.value());
        match version {
            None => {
                meta.insert(KEY_VERSION, VERSION).map_err(Error::metadata("write version"))?;
            }
            Some(VERSION) => {}
            Some(other) => {
                let what = format!("version {other}: this di3fs-snapshotter reads version {VERSION}");
                return Err(Error::Corrupt { what });
            }
        }
        tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
        tx.open_table(TREES).map_err(Error::metadata("open table"))?;
        tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
        tx.open_multimap_table(CHILDREN).map_err(Error::metadata("open table"))?;
        Ok(meta.get(KEY_NEXT).map_err(Error::metadata("read number"))?.map_or(1, |v| v.value()))
    })
}

/// Makes `<dir>/{fs,work}` and puts their names on the disk, before a record says that they exist.
fn make_dirs(dir: &Path) -> Result<()> {
    for (path, mode) in [(dir.to_owned(), 0o700), (dir.join("fs"), 0o755), (dir.join("work"), 0o711)] {
        fs::create_dir(&path).map_err(Error::io("make directory", &path))?;
        // mkdir takes the umask into account, a snapshot's root must not.
        fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(Error::io("set mode", &path))?;
    }
    for path in [Some(dir), dir.parent()].into_iter().flatten() {
        let synced = File::open(path).and_then(|f| f.sync_all());
        synced.map_err(Error::io("sync directory", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
