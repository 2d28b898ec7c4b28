//! Directories under `snapshots/`, and the internal interface of imports.
//!
//! An import calls [`Store::new_tree_dir`], fills `fs`, and calls [`Store::register_tree`] with the layer's chain
//! ID and the name of a *holder*, such as the digest of the image's manifest. From then on a Prepare for that
//! chain ID can be answered with it. A ready tree stays while a snapshot refers to it or a holder is left; after
//! [`Store::release_trees`] the last Remove deletes it. What is not registered is gone at the next start.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use redb::{ReadableTable, WriteTransaction};

use super::Store;
use super::tables::{CHAINS, TREES, TreeRecord, TreeState, decode, encode};
use crate::error::{Error, Result};
use crate::snapshot::{Kind, Usage};

/// A directory that an import may fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeDir {
    /// Its number.
    pub number: u64,
    /// Where the layer's files go, with whiteouts and opaque marks as overlayfs reads them; made with mode 0755.
    pub fs: PathBuf,
}

/// A ready tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// Its number.
    pub number: u64,
    /// The chain ID of its layer.
    pub chain_id: String,
    /// How many committed snapshots share it.
    pub refs: u64,
    /// Who wants it kept.
    pub holders: BTreeSet<String>,
    /// Its disk space.
    pub usage: Usage,
}

impl Store {
    /// Makes a directory for an import to fill.
    ///
    /// # Errors
    /// If the disk or the metadata does not take it.
    pub fn new_tree_dir(&self) -> Result<TreeDir> {
        let number = self.write("new tree", |tx| {
            let number = self.make_dir(tx)?;
            put(tx, number, &TreeRecord::building())?;
            Ok(number)
        })?;
        Ok(TreeDir { number, fs: self.fs_path(number) })
    }

    /// Declares a filled directory to be the layer of `chain_id`, kept for `holder`. Everything written to its file
    /// system is put on the disk first. If the layer is there already, the older directory stays and the new one
    /// is deleted. Returns the number that counts.
    ///
    /// # Errors
    /// `FailedPrecondition` if the directory is not one that is being filled.
    pub fn register_tree(&self, chain_id: &str, number: u64, holder: &str) -> Result<u64> {
        let usage = super::disk_usage(&self.fs_path(number))?;
        self.sync()?;
        let kept = self.write("register tree", |tx| {
            let mut tree = get(tx, number)?.filter(|t| t.state == TreeState::Building).ok_or_else(|| {
                Error::FailedPrecondition { what: format!("register tree {number}: it is not being filled") }
            })?;
            if let Some((older, mut record)) = ready(tx, chain_id)? {
                record.holders.insert(holder.to_owned());
                put(tx, older, &record)?;
                remove(tx, number)?;
                return Ok(older);
            }
            tree.state = TreeState::Ready;
            tree.chain_id = Some(chain_id.to_owned());
            tree.holders.insert(holder.to_owned());
            tree.usage = Some(usage);
            put(tx, number, &tree)?;
            let mut chains = tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
            chains.insert(chain_id, number).map_err(Error::metadata("write chain id"))?;
            Ok(number)
        })?;
        if kept != number {
            self.reaper.delete(self.dir(number));
        }
        Ok(kept)
    }

    /// Declares a layer that is served lazily, kept for `holder`, unless it is there already. Whether it is new.
    ///
    /// # Errors
    /// If the disk or the metadata does not take it.
    pub fn register_lazy(&self, chain_id: &str, holder: &str) -> Result<bool> {
        self.write("register lazy tree", |tx| {
            if let Some((number, mut tree)) = ready(tx, chain_id)? {
                tree.holders.insert(holder.to_owned());
                put(tx, number, &tree)?;
                return Ok(false);
            }
            let number = self.make_dir(tx)?;
            let mut tree = TreeRecord::empty(TreeState::Ready, 0);
            tree.chain_id = Some(chain_id.to_owned());
            tree.holders.insert(holder.to_owned());
            tree.usage = Some(super::disk_usage(&self.fs_path(number))?);
            tree.lazy = true;
            put(tx, number, &tree)?;
            let mut chains = tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
            chains.insert(chain_id, number).map_err(Error::metadata("write chain id"))?;
            Ok(true)
        })
    }

    /// The chain ID of a directory that is empty because its layer is served lazily; none for any other.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn lazy_chain(&self, number: u64) -> Result<Option<String>> {
        self.read("read tree", |tx| {
            let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
            let Some(raw) = trees.get(number).map_err(Error::metadata("read tree"))? else { return Ok(None) };
            let tree: TreeRecord = decode("tree", number, raw.value())?;
            Ok(tree.chain_id.filter(|_| tree.lazy))
        })
    }

    /// The chain IDs of the lazy layers that active snapshots and views lie on.
    ///
    /// # Errors
    /// The metadata cannot be read.
    pub fn lazy_in_use(&self) -> Result<HashSet<String>> {
        let mut used = HashSet::new();
        for info in self.list(|info| info.kind != Kind::Committed)? {
            let parents = match self.layers(&info.name) {
                // Removed or committed meanwhile.
                Err(Error::NotFound { .. } | Error::FailedPrecondition { .. }) => continue,
                layers => layers?.parents,
            };
            for number in parents {
                if let Some(chain_id) = self.lazy_chain(number)? {
                    used.insert(chain_id);
                    break;
                }
            }
        }
        Ok(used)
    }

    /// Gives up a directory that was being filled.
    ///
    /// # Errors
    /// `FailedPrecondition` if it is not.
    pub fn discard_tree_dir(&self, number: u64) -> Result<()> {
        let state = self.read("discard tree", |tx| {
            let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
            let raw = trees.get(number).map_err(Error::metadata("read tree"))?;
            raw.map(|raw| decode("tree", number, raw.value()).map(|tree: TreeRecord| tree.state)).transpose()
        })?;
        if state != Some(TreeState::Building) {
            let what = format!("discard tree {number}: it is not being filled");
            return Err(Error::FailedPrecondition { what });
        }
        // Before its record, which on a full disk may have to wait for the next start.
        self.reaper.delete(self.dir(number));
        self.write("discard tree", |tx| remove(tx, number))
    }

    /// Keeps the ready tree of `chain_id` for one more holder and returns its number, if there is one.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn hold_tree(&self, chain_id: &str, holder: &str) -> Result<Option<u64>> {
        self.write("hold tree", |tx| {
            let Some((number, mut tree)) = ready(tx, chain_id)? else { return Ok(None) };
            if tree.holders.insert(holder.to_owned()) {
                put(tx, number, &tree)?;
            }
            Ok(Some(number))
        })
    }

    /// Takes a holder off all trees and deletes those that nothing wants any more. Returns how many; none, and nothing is changed, where
    /// snapshots lie on its tree of the chain ID `top`, or on a lazy one that nobody else holds.
    ///
    /// # Errors
    /// If the metadata cannot be written.
    pub fn release_trees(&self, holder: &str, top: &str) -> Result<Option<usize>> {
        let freed = self.write("release trees", |tx| {
            let mut held = Vec::new();
            {
                let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
                for entry in trees.iter().map_err(Error::metadata("list trees"))? {
                    let (number, raw) = entry.map_err(Error::metadata("list trees"))?;
                    let mut tree: TreeRecord = decode("tree", number.value(), raw.value())?;
                    if tree.holders.remove(holder) {
                        let alone = tree.lazy && tree.holders.is_empty();
                        if tree.refs > 0 && (alone || tree.chain_id.as_deref() == Some(top)) {
                            return Ok(None);
                        }
                        held.push((number.value(), tree));
                    }
                }
            }
            let mut freed = Vec::new();
            for (number, tree) in held {
                freed.extend(put_or_remove(tx, number, &tree)?);
            }
            Ok(Some(freed))
        })?;
        for number in freed.iter().flatten() {
            self.reaper.delete(self.dir(*number));
        }
        Ok(freed.map(|freed| freed.len()))
    }

    /// The ready tree of a chain ID.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn tree(&self, chain_id: &str) -> Result<Option<TreeInfo>> {
        self.read("read tree", |tx| {
            let chains = tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
            let Some(number) = chains.get(chain_id).map_err(Error::metadata("read chain id"))? else {
                return Ok(None);
            };
            let number = number.value();
            let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
            let raw = trees.get(number).map_err(Error::metadata("read tree"))?;
            raw.map_or(Ok(None), |raw| {
                Ok(decode::<TreeRecord>("tree", number, raw.value())?.into_info(number))
            })
        })
    }

    /// All ready trees, in the order of their numbers.
    ///
    /// # Errors
    /// If the metadata cannot be read.
    pub fn trees(&self) -> Result<Vec<TreeInfo>> {
        self.read("list trees", |tx| {
            let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
            let mut found = Vec::new();
            for entry in trees.iter().map_err(Error::metadata("list trees"))? {
                let (number, raw) = entry.map_err(Error::metadata("list trees"))?;
                let tree: TreeRecord = decode("tree", number.value(), raw.value())?;
                found.extend(tree.into_info(number.value()));
            }
            Ok(found)
        })
    }

    /// Puts everything written under the root on the disk.
    fn sync(&self) -> Result<()> {
        let dir = std::fs::File::open(&self.root).map_err(Error::io("open directory", &self.root))?;
        nix::unistd::syncfs(&dir).map_err(|e| Error::io("sync file system", &self.root)(e.into()))
    }
}

impl TreeRecord {
    fn empty(state: TreeState, refs: u64) -> Self {
        Self { state, refs, chain_id: None, holders: BTreeSet::new(), usage: None, lazy: false }
    }

    /// The directory of one snapshot.
    pub(super) fn private() -> Self {
        Self::empty(TreeState::Private, 1)
    }

    fn building() -> Self {
        Self::empty(TreeState::Building, 0)
    }

    fn into_info(self, number: u64) -> Option<TreeInfo> {
        if self.state != TreeState::Ready {
            return None;
        }
        let usage = self.usage.unwrap_or_default();
        Some(TreeInfo { number, chain_id: self.chain_id?, refs: self.refs, holders: self.holders, usage })
    }
}

pub(super) fn get(tx: &WriteTransaction, number: u64) -> Result<Option<TreeRecord>> {
    let trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
    let raw = trees.get(number).map_err(Error::metadata("read tree"))?;
    raw.map(|raw| decode("tree", number, raw.value())).transpose()
}

pub(super) fn put(tx: &WriteTransaction, number: u64, tree: &TreeRecord) -> Result<()> {
    let raw = encode(tree)?;
    let mut trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
    trees.insert(number, raw.as_slice()).map_err(Error::metadata("write tree"))?;
    Ok(())
}

/// Writes a tree back or, if nothing wants it any more, removes it and returns its number.
pub(super) fn put_or_remove(tx: &WriteTransaction, number: u64, tree: &TreeRecord) -> Result<Option<u64>> {
    if tree.refs > 0 || !tree.holders.is_empty() {
        put(tx, number, tree)?;
        return Ok(None);
    }
    if let Some(chain_id) = &tree.chain_id {
        let mut chains = tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
        chains.remove(chain_id.as_str()).map_err(Error::metadata("remove chain id"))?;
    }
    remove(tx, number)?;
    Ok(Some(number))
}

fn remove(tx: &WriteTransaction, number: u64) -> Result<()> {
    let mut trees = tx.open_table(TREES).map_err(Error::metadata("open table"))?;
    trees.remove(number).map_err(Error::metadata("remove tree"))?;
    Ok(())
}

/// The ready tree of a chain ID, as the transaction sees it.
fn ready(tx: &WriteTransaction, chain_id: &str) -> Result<Option<(u64, TreeRecord)>> {
    let number = {
        let chains = tx.open_table(CHAINS).map_err(Error::metadata("open table"))?;
        chains.get(chain_id).map_err(Error::metadata("read chain id"))?.map(|n| n.value())
    };
    match number {
        Some(number) => Ok(get(tx, number)?.map(|tree| (number, tree))),
        None => Ok(None),
    }
}
