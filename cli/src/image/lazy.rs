//! Images whose contents are made when they are asked for.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use di3fs::lazy::{Contents, Step};
use di3fs::mount;
use di3fs::store::ObjectStore;
use di3fs::tree::Tree;
use dimg::Digest;
use dimg::memory::Memory;

use super::{Delta, Image, chain};
use crate::beside::aside;
use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::interrupt::Pending;

/// An image of which nothing is made yet.
pub(crate) struct LazyImage {
    /// Its tree and contents.
    pub(crate) image: mount::Image,
    /// The digest of its manifest.
    pub(crate) manifest: Digest,
    /// The digest of its config.
    pub(crate) config: Digest,
    /// A directory for what serves it, removed in the end; contents are made below it, unless there is a store that stays.
    pub(crate) state: Pending,
    /// Holds the state's directory locked, as a sign that a process uses it.
    pub(crate) lock: File,
}

impl LazyImage {
    /// The image that `deltas` make from `base`, or from nothing. Contents are made into `store`, which stays, or into the state,
    /// which is a directory named after `command`; within `memory`.
    ///
    /// # Errors
    /// A delta is damaged, or made against another image than the one before it; the store is in use, or cannot be made.
    pub(crate) fn open(
        base: Option<Image>,
        deltas: Vec<Delta>,
        store: Option<&Path>,
        command: &str,
        (memory, config): (Arc<Memory>, &Config),
    ) -> Result<Self, Failure> {
        let (images, checks) = chain::resolve_meanwhile(base.as_ref(), &deltas)?;
        let (name, manifest, config_digest) = match (deltas.last(), &base) {
            (Some(last), _) => {
                let target = last.file.dimg().target();
                (last.path.display().to_string(), target.manifest, target.config)
            }
            (None, Some(base)) => (base.name.clone(), base.manifest_digest, base.config_digest),
            (None, None) => return Err(Failure::usage(command, "no image is given")),
        };
        let of_base = || base.as_ref().map(Image::indexes).unwrap_or_default();
        let layers = images.last().map_or_else(of_base, |image| image.layers.clone());
        let tree = Tree::merge(&layers);
        checks.join()?;
        let tree = tree.map_err(|error| Failure::new(Kind::Corrupt, "lay out tree", &name, error))?;
        let steps = deltas.into_iter().zip(images);
        let mut unused = vec![layers];
        let steps = steps.map(|(delta, image)| {
            unused.push(image.layers);
            Step { file: Arc::new(delta.file), recipes: image.recipes }
        });
        let steps = steps.collect();
        // Large trees take their time to go, and nobody waits for it.
        drop(thread::Builder::new().spawn(move || drop(unused)));

        let state = Pending::new(aside(&config.tmpdir.join(command)));
        fs::create_dir(state.path()).map_err(Failure::io("make directory", state.path()))?;
        let lock = File::open(state.path()).map_err(Failure::io("open directory", state.path()))?;
        lock.lock().map_err(Failure::io("lock directory", state.path()))?;
        let store = match store {
            Some(dir) => ObjectStore::open(dir)?,
            None => ObjectStore::open_volatile(&state.path().join("store"))?,
        };
        store.share_memory(memory);
        let sources = base.map(|base| base.contents).unwrap_or_default();
        let contents = Contents::new(Arc::new(store), steps, sources);
        let image = mount::Image { tree: Arc::new(tree), contents: Arc::new(contents) };
        Ok(Self { image, manifest, config: config_digest, state, lock })
    }
}
