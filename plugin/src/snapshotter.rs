//! The operations of the Snapshots service over a [`Store`], free of any wire. All of them block.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown};
use std::sync::Arc;

use di3fs::mount::Lower;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::filter::Filters;
use crate::mapping::{Mapped, Mapping};
use crate::mounts::{MountSpec, OverlayOptions};
use crate::serving::LowerProvider;
use crate::snapshot::{Info, Kind, LABEL_SNAPSHOT_REF, Labels, Usage};
use crate::store::{Layers, Store, disk_usage};

/// The snapshot that a new one is to stand on.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    /// Its name, empty for none.
    pub name: &'a str,
}

/// A layer whose tree is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyLayer {
    /// The number of its directory.
    pub number: u64,
}

/// Says which layers need no unpacking by containerd.
pub trait LayerProvider: Send + Sync {
    /// Looks for the layer of a chain ID. containerd waits with a lock held: never download or build here, nor wait without a bound.
    ///
    /// # Errors
    /// The Prepare goes on as if there were no such layer.
    fn lookup(&self, parent: &Parent<'_>, chain_id: &str, labels: &Labels) -> Result<Option<ReadyLayer>>;
}

/// The trees that imports have registered.
impl LayerProvider for Store {
    fn lookup(&self, _: &Parent<'_>, chain_id: &str, _: &Labels) -> Result<Option<ReadyLayer>> {
        Ok(self.tree(chain_id)?.map(|tree| ReadyLayer { number: tree.number }))
    }
}

/// Is told what containerd did with layers of ours. Called outside transactions, on the thread of the request.
pub trait Hooks: Send + Sync {
    /// A Prepare of `key` was answered with the layer `chain_id`, committed as `name`.
    fn adopted(&self, chain_id: &str, key: &str, name: &str);
    /// Snapshots were removed that may have kept layers of ours. containerd waits with a lock held.
    fn removed(&self);
    /// A snapshot that a container may have used has gone.
    fn unused(&self);
    /// All disk space that nothing needs is to be free when this returns.
    fn cleanup(&self);
}

impl Hooks for () {
    fn adopted(&self, _: &str, _: &str, _: &str) {}
    fn removed(&self) {}
    fn unused(&self) {}
    fn cleanup(&self) {}
}

/// The snapshotter of one root directory.
pub struct Snapshotter {
    store: Arc<Store>,
    layers: Arc<dyn LayerProvider>,
    served: Arc<dyn LowerProvider>,
    hooks: Arc<dyn Hooks>,
    overlay: OverlayOptions,
    mapped: Mapped,
}

impl Snapshotter {
    /// A snapshotter that serves the layers of `layers`, those without files through `served`, and tells `hooks`.
    pub fn new(
        store: Arc<Store>,
        layers: Arc<dyn LayerProvider>,
        served: Arc<dyn LowerProvider>,
        hooks: Arc<dyn Hooks>,
        overlay: OverlayOptions,
    ) -> Self {
        let mapped = Mapped::open(store.root(), |number| store.fs_path(number).exists());
        Self { store, layers, served, hooks, overlay, mapped }
    }

    /// Makes an active snapshot and returns its mounts, or commits a layer that is ready.
    ///
    /// # Errors
    /// Those of [`Store::create`]; `AlreadyExists` also when the layer that the labels ask for is committed.
    pub fn prepare(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<MountSpec>> {
        if let Some(chain_id) = labels.get(LABEL_SNAPSHOT_REF)
            && let Some(name) = self.adopt(parent, chain_id, &labels)?
        {
            tracing::info!(key, parent, chain_id, name, "layer is ready, committed it");
            self.hooks.adopted(chain_id, key, &name);
            return Err(Error::AlreadyExists { what: format!("prepare snapshot {key}: layer {chain_id}") });
        }
        self.create(Kind::Active, key, parent, labels)
    }

    /// Makes a view and returns its mounts.
    ///
    /// # Errors
    /// Those of [`Store::create`].
    pub fn view(&self, key: &str, parent: &str, labels: Labels) -> Result<Vec<MountSpec>> {
        self.create(Kind::View, key, parent, labels)
    }

    fn create(&self, kind: Kind, key: &str, parent: &str, labels: Labels) -> Result<Vec<MountSpec>> {
        let made = self.store.create(kind, key, parent, labels)?;
        tracing::debug!(key, parent, kind = kind.as_str(), number = made.number, "snapshot made");
        let mounted = self.lower_of(&made).and_then(|lower| {
            self.own(&made, &lower)?;
            self.overlay.mounts(&self.store, &made, &lower)
        });
        mounted.inspect_err(|error| {
            tracing::error!(key, parent, %error, "snapshot cannot be mounted");
            self.mapped.end(made.number);
            if let Err(error) = self.store.remove(key) {
                tracing::warn!(key, %error, "it stays");
            }
        })
    }

    /// What of a new snapshot is its root has the owner of its parent's, as over containerd's own snapshotters; without a
    /// parent, that of the container's root.
    fn own(&self, layers: &Layers, lower: &Lower) -> Result<()> {
        if layers.kind != Kind::Active {
            return Ok(());
        }
        let owner = match lower.as_directories().layers.first() {
            Some(parent) => {
                let seen = fs::metadata(parent).map_err(Error::io("look at directory", parent))?;
                (seen.uid(), seen.gid())
            }
            None => Mapping::of(&layers.labels)?.map_or((0, 0), |mapping| mapping.root()),
        };
        let own = self.store.fs_path(layers.number);
        match owner {
            (0, 0) => Ok(()),
            (uid, gid) => lchown(&own, Some(uid), Some(gid)).map_err(Error::io("set owner", &own)),
        }
    }

    fn lower_of(&self, layers: &Layers) -> Result<Lower> {
        let mut lower = Lower::default();
        for number in &layers.parents {
            if let Some(chain_id) = self.store.lazy_chain(*number)? {
                // All below it is in it.
                let served = self.served.lower(&chain_id)?;
                lower.layers.extend(served.layers);
                (lower.data_only, lower.merged) = (served.data_only, served.merged);
                break;
            }
            lower.layers.push(self.store.fs_path(*number));
        }
        match Mapping::of(&layers.labels)? {
            Some(mapping) => self.mapped.lower(layers.number, lower, &mapping),
            None => Ok(lower),
        }
    }

    /// Commits the layer of `chain_id` on `parent`, if it is ready or was committed before; returns its name.
    fn adopt(&self, parent: &str, chain_id: &str, labels: &Labels) -> Result<Option<String>> {
        // Also where it was committed before: what it is made of may have been found wrong since.
        let layer = match self.layers.lookup(&Parent { name: parent }, chain_id, labels) {
            Ok(Some(layer)) => layer,
            Ok(None) => return Ok(None),
            Err(e) => {
                tracing::warn!(chain_id, error = %e, "cannot look for a ready layer, containerd unpacks it");
                return Ok(None);
            }
        };
        let name = layer_name(parent, chain_id);
        match self.store.adopt(&name, parent, layer.number, labels.clone()) {
            Ok(true) | Err(Error::AlreadyExists { .. }) => Ok(Some(name)),
            Ok(false) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// Those of [`Store::layers`].
    pub fn mounts(&self, key: &str) -> Result<Vec<MountSpec>> {
        let layers = self.store.layers(key)?;
        self.overlay.mounts(&self.store, &layers, &self.lower_of(&layers)?)
    }

    /// Commits an active snapshot and records its usage.
    ///
    /// # Errors
    /// Those of [`Store::commit`].
    pub fn commit(&self, name: &str, key: &str, parent: &str, labels: Labels) -> Result<()> {
        let number = self.store.check_commit(name, key, parent)?;
        let usage = disk_usage(&self.store.fs_path(number))?;
        self.store.commit(name, key, parent, labels, usage)?;
        self.mapped.end(number);
        tracing::debug!(key, name, number, bytes = usage.bytes, "snapshot committed");
        Ok(())
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// Those of [`Store::remove`].
    pub fn remove(&self, key: &str) -> Result<()> {
        let info = self.store.stat(key).ok();
        let layers = self.store.layers(key).ok();
        self.store.remove(key)?;
        if let Some(layers) = layers {
            self.mapped.end(layers.number);
        }
        tracing::debug!(key, "snapshot removed");
        match info {
            Some(info) if info.kind != Kind::Committed => self.hooks.unused(),
            Some(info) if info.labels.contains_key(LABEL_SNAPSHOT_REF) => self.hooks.removed(),
            _ => {}
        }
        Ok(())
    }

    /// One snapshot.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn stat(&self, key: &str) -> Result<Info> {
        self.store.stat(key)
    }

    /// Changes labels: all of them for no path or `labels`, one for `labels.<key>`; an empty value deletes.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for a path of anything else.
    pub fn update(&self, key: &str, labels: &Labels, paths: &[String]) -> Result<Info> {
        self.store.update(key, |present| {
            let mut new = if paths.is_empty() { labels.clone() } else { present.clone() };
            for path in paths {
                if path == "labels" {
                    new.clone_from(labels);
                } else if let Some(label) = path.strip_prefix("labels.") {
                    new.insert(label.to_owned(), labels.get(label).cloned().unwrap_or_default());
                } else {
                    let what = format!("update snapshot {key}: field {path:?} cannot be changed");
                    return Err(Error::InvalidArgument { what });
                }
            }
            new.retain(|_, value| !value.is_empty());
            Ok(new)
        })
    }

    /// The snapshots that any of the filters accepts.
    ///
    /// # Errors
    /// `InvalidArgument` for a filter that cannot be parsed.
    pub fn list(&self, filters: &[String]) -> Result<Vec<Info>> {
        let filters = Filters::parse(filters)?;
        self.store.list(|info| filters.accept(info))
    }

    /// Disk space of a snapshot: as recorded, or counted now if it may still change.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn usage(&self, key: &str) -> Result<Usage> {
        match self.store.usage(key)? {
            Ok(recorded) => Ok(recorded),
            Err(number) => match disk_usage(&self.store.fs_path(number)) {
                // Removed meanwhile: then there is no snapshot either.
                Err(e) => Err(self.store.stat(key).err().unwrap_or(e)),
                counted => counted,
            },
        }
    }

    /// Returns when the disk space of all that was removed is free again.
    ///
    /// # Errors
    /// If the root directory or the metadata cannot be read.
    pub fn cleanup(&self) -> Result<()> {
        self.hooks.cleanup();
        self.store.cleanup()
    }
}

/// The name under which a layer is committed: one per parent and chain ID, since another namespace has another
/// parent for the same chain ID, and a name has one parent.
fn layer_name(parent: &str, chain_id: &str) -> String {
    let hash: String = Sha256::digest(parent).iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{chain_id}@{hash}")
}

#[cfg(test)]
mod tests;
