//! Snapshot records: one function per operation of the service, with the errors that containerd expects.

use std::time::SystemTime;

use redb::{ReadableMultimapTable, ReadableTable, WriteTransaction};

use super::tables::{CHILDREN, SNAPSHOTS, SnapshotRecord, TreeRecord, TreeState, decode, encode};
use super::{Store, trees};
use crate::error::{Error, Result};
use crate::snapshot::{Info, Kind, Labels, Usage};

/// The directories of a snapshot that can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// View or active.
    pub kind: Kind,
    /// Its own directory.
    pub number: u64,
    /// The directories of its parents, the nearest first.
    pub parents: Vec<u64>,
    /// Its labels.
    pub labels: Labels,
}

/// What became of a Prepare or View.
pub type Created = Layers;

impl Store {
    /// Makes an active snapshot or a view and its directories.
    ///
    /// # Errors
    /// `NotFound` without the parent, `InvalidArgument` if the parent is not committed or the key empty,
    /// `AlreadyExists` for a key that is taken.
    pub fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Created> {
        let what = || format!("prepare snapshot {key}");
        if kind == Kind::Committed || key.is_empty() {
            let why =
                if key.is_empty() { "empty key" } else { "only active snapshots and views can be made" };
            return Err(Error::InvalidArgument { what: format!("{}: {why}", what()) });
        }
        self.write("prepare", |tx| {
            let mut snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let parents = parent_chain(&snapshots, &what(), parent)?;
            if lookup(&snapshots, key)?.is_some() {
                return Err(Error::AlreadyExists { what: what() });
            }
            let number = self.make_dir(tx)?;
            trees::put(tx, number, &TreeRecord::private())?;
            let record = SnapshotRecord::new(number, kind, parent, labels.clone());
            insert(tx, &mut snapshots, key, &record)?;
            Ok(Layers { kind, number, parents, labels })
        })
    }

    /// Makes a committed snapshot of a ready tree. `false`: the tree is not there any more.
    ///
    /// # Errors
    /// As [`create`](Self::create); `AlreadyExists` means that an earlier call did the same.
    pub fn adopt(&self, name: &str, parent: &str, number: u64, labels: Labels) -> Result<bool> {
        let what = || format!("commit layer {name}");
        self.write("adopt", |tx| {
            let mut snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            parent_chain(&snapshots, &what(), parent)?;
            if lookup(&snapshots, name)?.is_some() {
                return Err(Error::AlreadyExists { what: what() });
            }
            let Some(mut tree) = trees::get(tx, number)?.filter(|t| t.state == TreeState::Ready) else {
                return Ok(false);
            };
            tree.refs += 1;
            trees::put(tx, number, &tree)?;
            let mut record = SnapshotRecord::new(number, Kind::Committed, parent, labels);
            record.usage = tree.usage;
            insert(tx, &mut snapshots, name, &record)?;
            Ok(true)
        })
    }

    /// Finds out whether a Commit can work, and the directory whose usage it records.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn check_commit(&self, name: &str, key: &str, parent: &str) -> Result<u64> {
        self.read("commit", |tx| {
            let snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            committable(&snapshots, name, key, parent).map(|record| record.tree)
        })
    }

    /// Turns the active snapshot `key` into the committed one `name`, with new labels. An empty `parent` keeps
    /// the one it was prepared with; a snapshot without a parent may get one.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that is taken, `NotFound` without the key, `FailedPrecondition` if it is not
    /// active, `InvalidArgument` for another parent.
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels, usage: Usage) -> Result<()> {
        self.write("commit", |tx| {
            let mut snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let old = committable(&snapshots, name, key, parent)?;
            let parent = if old.parent.is_empty() { parent } else { old.parent.as_str() };
            let mut record = SnapshotRecord::new(old.tree, Kind::Committed, parent, labels);
            record.usage = Some(usage);
            take(tx, &mut snapshots, key, &old)?;
            insert(tx, &mut snapshots, name, &record)
        })
    }

    /// Forgets a snapshot. Its directory goes too, unless it is a ready tree that others want.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it has children.
    pub fn remove(&self, key: &str) -> Result<()> {
        let what = || format!("remove snapshot {key}");
        let freed = self.write("remove", |tx| {
            let mut snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let record = lookup(&snapshots, key)?.ok_or_else(|| Error::NotFound { what: what() })?;
            let has_child = {
                let children = tx.open_multimap_table(CHILDREN).map_err(Error::metadata("open table"))?;
                !children.get(key).map_err(Error::metadata("list children"))?.is_empty()
            };
            if has_child {
                return Err(Error::FailedPrecondition { what: format!("{}: it has children", what()) });
            }
            take(tx, &mut snapshots, key, &record)?;
            let mut tree = trees::get(tx, record.tree)?.ok_or_else(|| missing_tree(key, record.tree))?;
            tree.refs = tree.refs.saturating_sub(1);
            trees::put_or_remove(tx, record.tree, &tree)
        })?;
        if let Some(number) = freed {
            self.reaper.delete(self.dir(number));
        }
        Ok(())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn stat(&self, key: &str) -> Result<Info> {
        self.record(&format!("stat snapshot {key}"), key).map(|r| r.into_info(key))
    }

    /// The snapshots that `wanted` accepts, in the order of their names, all of one moment.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn list(&self, mut wanted: impl FnMut(&Info) -> bool) -> Result<Vec<Info>> {
        self.read("list", |tx| {
            let snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let mut found = Vec::new();
            for entry in snapshots.iter().map_err(Error::metadata("list snapshots"))? {
                let (name, raw) = entry.map_err(Error::metadata("list snapshots"))?;
                let record: SnapshotRecord = decode("snapshot", name.value(), raw.value())?;
                let info = record.into_info(name.value());
                if wanted(&info) {
                    found.push(info);
                }
            }
            Ok(found)
        })
    }

    /// Changes labels. `change` gets the present ones and returns the new ones.
    ///
    /// # Errors
    /// `NotFound`, or what `change` returns.
    pub fn update(&self, key: &str, change: impl FnOnce(&Labels) -> Result<Labels>) -> Result<Info> {
        self.write("update", |tx| {
            let mut snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let mut record = lookup(&snapshots, key)?
                .ok_or_else(|| Error::NotFound { what: format!("update snapshot {key}") })?;
            record.labels = change(&record.labels)?;
            record.updated = SystemTime::now();
            let raw = encode(&record)?;
            snapshots.insert(key, raw.as_slice()).map_err(Error::metadata("write snapshot"))?;
            Ok(record.into_info(key))
        })
    }

    /// What to mount for a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    pub fn layers(&self, key: &str) -> Result<Layers> {
        let what = || format!("mounts of snapshot {key}");
        self.read("mounts", |tx| {
            let snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            let record = lookup(&snapshots, key)?.ok_or_else(|| Error::NotFound { what: what() })?;
            if record.kind == Kind::Committed {
                return Err(Error::FailedPrecondition { what: format!("{}: it is committed", what()) });
            }
            let parents = parent_chain(&snapshots, &what(), &record.parent)?;
            Ok(Layers { kind: record.kind, number: record.tree, parents, labels: record.labels })
        })
    }

    /// The recorded usage of a committed snapshot, or the directory of one that may still change.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn usage(&self, key: &str) -> Result<std::result::Result<Usage, u64>> {
        let record = self.record(&format!("usage of snapshot {key}"), key)?;
        Ok(record.usage.ok_or(record.tree))
    }

    fn record(&self, what: &str, key: &str) -> Result<SnapshotRecord> {
        self.read("read snapshot", |tx| {
            let snapshots = tx.open_table(SNAPSHOTS).map_err(Error::metadata("open table"))?;
            lookup(&snapshots, key)?.ok_or_else(|| Error::NotFound { what: what.to_owned() })
        })
    }
}

impl SnapshotRecord {
    fn new(tree: u64, kind: Kind, parent: &str, labels: Labels) -> Self {
        let now = SystemTime::now();
        Self { tree, kind, parent: parent.to_owned(), labels, created: now, updated: now, usage: None }
    }
}

fn missing_tree(key: &str, number: u64) -> Error {
    Error::Corrupt { what: format!("snapshot {key}: no record of its directory {number}") }
}

fn lookup(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<SnapshotRecord>> {
    let raw = snapshots.get(key).map_err(Error::metadata("read snapshot"))?;
    raw.map(|raw| decode("snapshot", key, raw.value())).transpose()
}

/// The directories of `parent` and its parents, which must be committed; nothing for no parent.
fn parent_chain(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    what: &str,
    parent: &str,
) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let mut name = parent.to_owned();
    while !name.is_empty() {
        let record = lookup(snapshots, &name)?
            .ok_or_else(|| Error::NotFound { what: format!("{what}: parent {name}") })?;
        if record.kind != Kind::Committed {
            return Err(Error::InvalidArgument { what: format!("{what}: parent {name} is not committed") });
        }
        numbers.push(record.tree);
        name = record.parent;
    }
    Ok(numbers)
}

fn committable(
    snapshots: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    key: &str,
    parent: &str,
) -> Result<SnapshotRecord> {
    let what = || format!("commit snapshot {key} as {name}");
    if name.is_empty() {
        return Err(Error::InvalidArgument { what: format!("{}: empty name", what()) });
    }
    if lookup(snapshots, name)?.is_some() {
        return Err(Error::AlreadyExists { what: what() });
    }
    let record = lookup(snapshots, key)?.ok_or_else(|| Error::NotFound { what: what() })?;
    if record.kind != Kind::Active {
        let what = format!("{}: it is {}, not active", what(), record.kind.as_str());
        return Err(Error::FailedPrecondition { what });
    }
    if record.parent != parent && !parent.is_empty() {
        if !record.parent.is_empty() {
            let what = format!("{}: its parent is {}, not {parent}", what(), record.parent);
            return Err(Error::InvalidArgument { what });
        }
        let base = lookup(snapshots, parent)?
            .ok_or_else(|| Error::NotFound { what: format!("{}: parent {parent}", what()) })?;
        if base.kind != Kind::Committed {
            let what = format!("{}: parent {parent} is not committed", what());
            return Err(Error::FailedPrecondition { what });
        }
    }
    Ok(record)
}

type SnapshotTable<'tx> = redb::Table<'tx, &'static str, &'static [u8]>;

/// Writes a new record and the link from its parent.
fn insert(
    tx: &WriteTransaction,
    snapshots: &mut SnapshotTable<'_>,
    name: &str,
    record: &SnapshotRecord,
) -> Result<()> {
    let raw = encode(record)?;
    snapshots.insert(name, raw.as_slice()).map_err(Error::metadata("write snapshot"))?;
    if !record.parent.is_empty() {
        let mut children = tx.open_multimap_table(CHILDREN).map_err(Error::metadata("open table"))?;
        children.insert(record.parent.as_str(), name).map_err(Error::metadata("write child"))?;
    }
    Ok(())
}

/// Removes a record and the link from its parent.
fn take(
    tx: &WriteTransaction,
    snapshots: &mut SnapshotTable<'_>,
    name: &str,
    record: &SnapshotRecord,
) -> Result<()> {
    snapshots.remove(name).map_err(Error::metadata("remove snapshot"))?;
    if !record.parent.is_empty() {
        let mut children = tx.open_multimap_table(CHILDREN).map_err(Error::metadata("open table"))?;
        children.remove(record.parent.as_str(), name).map_err(Error::metadata("remove child"))?;
    }
    Ok(())
}
