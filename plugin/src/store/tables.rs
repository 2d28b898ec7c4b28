//! The tables of `metadata.redb` and the records in them.
//!
//! Records are JSON objects: an unknown field is skipped, so that a plugin can read what the next version wrote.
//! `version` in the table `meta` changes only when that is not enough.

use std::collections::BTreeSet;
use std::time::SystemTime;

use redb::{MultimapTableDefinition, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::snapshot::{Info, Kind, Labels, Usage};

/// Layout version of this file.
pub(super) const VERSION: u64 = 1;
/// Key of [`VERSION`] in [`META`].
pub(super) const KEY_VERSION: &str = "version";
/// Key in [`META`] of the lowest number that no directory has had yet.
pub(super) const KEY_NEXT: &str = "next-number";

/// Numbers of the store as a whole.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Snapshot name or key → [`SnapshotRecord`].
pub(super) const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
/// Parent name → names and keys of its children.
pub(super) const CHILDREN: MultimapTableDefinition<'_, &str, &str> = MultimapTableDefinition::new("children");
/// Directory number → [`TreeRecord`].
pub(super) const TREES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("trees");
/// Chain ID → number of its ready tree.
pub(super) const CHAINS: TableDefinition<'_, &str, u64> = TableDefinition::new("chains");

/// A snapshot that containerd knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SnapshotRecord {
    /// Number of the directory that holds its files.
    pub tree: u64,
    pub kind: Kind,
    pub parent: String,
    pub labels: Labels,
    pub created: SystemTime,
    pub updated: SystemTime,
    /// Known once committed.
    pub usage: Option<Usage>,
}

impl SnapshotRecord {
    pub fn into_info(self, name: &str) -> Info {
        Info {
            name: name.to_owned(),
            parent: self.parent,
            kind: self.kind,
            created: self.created,
            updated: self.updated,
            labels: self.labels,
        }
    }
}

/// What a directory under `snapshots/` is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TreeState {
    /// It belongs to the one snapshot that made it.
    Private,
    /// An import fills it; it is worth nothing before it is ready.
    Building,
    /// The whole layer of a chain ID; any number of committed snapshots share it.
    Ready,
}

/// A directory under `snapshots/`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TreeRecord {
    pub state: TreeState,
    /// Snapshot records that name it.
    pub refs: u64,
    /// Set when ready.
    pub chain_id: Option<String>,
    /// Who wants it kept without any snapshot, such as imported images.
    pub holders: BTreeSet<String>,
    /// Known when ready.
    pub usage: Option<Usage>,
    /// Its directory is empty: it is served merged with all below it.
    #[serde(default)]
    pub lazy: bool,
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| Error::Corrupt { what: format!("write record: {e}") })
}

pub(super) fn decode<T: DeserializeOwned>(table: &str, key: impl std::fmt::Display, raw: &[u8]) -> Result<T> {
    serde_json::from_slice(raw).map_err(|e| Error::Corrupt { what: format!("read {table}: {key}: {e}") })
}
