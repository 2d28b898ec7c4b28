//! The words of the Snapshots service in our own types: kinds, infos, usage, and the labels that mean something.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Labels of a snapshot.
pub type Labels = BTreeMap<String, String>;

/// The chain ID that a Prepare is for: if we have that layer, we commit it ourselves and answer AlreadyExists.
pub const LABEL_SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// The name of the image that is being pulled.
pub const LABEL_IMAGE_REF: &str = "containerd.io/snapshot/cri.image-ref";
/// The digest of its manifest.
pub const LABEL_MANIFEST_DIGEST: &str = "containerd.io/snapshot/cri.manifest-digest";
/// The digest of the layer's blob.
pub const LABEL_LAYER_DIGEST: &str = "containerd.io/snapshot/cri.layer-digest";

/// How users and groups of the container are numbered outside of it: `inside:outside:count`, several with commas between.
pub const LABEL_UID_MAPPING: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
pub const LABEL_GID_MAPPING: &str = "containerd.io/snapshot/gidmapping";

/// The state of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, not a parent of anything.
    View,
    /// Writable, not a parent of anything.
    Active,
    /// Immutable, may be a parent.
    Committed,
}

impl Kind {
    /// The word that filters and logs use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        }
    }
}

/// What Stat and List tell of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The key of an active snapshot or view, the name of a committed one.
    pub name: String,
    /// The parent's name, empty for none.
    pub parent: String,
    /// Its state.
    pub kind: Kind,
    /// When it was prepared or, once committed, committed.
    pub created: SystemTime,
    /// When its labels changed last.
    pub updated: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

/// Disk space of a snapshot, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Inodes, hard links counted once.
    pub inodes: u64,
}
