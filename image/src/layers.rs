//! Layers read whole: opened, verified and parsed, several at a time, and one that several images have only once.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use d4c_sys::{Map, on_threads};
use dimg::Digest;
use dimg::build::SideLayer;
use dimg::content::{Bytes, ContentSource};
use dimg::index::Content;

use crate::error::SourceError;
use crate::source::OpenImage;
use crate::tar::{self, ParseOptions, ParsedLayer, TarError};

/// Layers that are read at a time, at most: as many as usual clients ask a registry for.
const AT_ONCE: usize = 4;

/// Bytes of blobs for which another thread is worth its start.
const BYTES_EACH: u64 = 256 << 10;

/// A layer that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The image cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A layer's tar is damaged.
    #[error("read layer: {on}: {source}")]
    Layer {
        /// Which, of what image.
        on: String,
        /// What is wrong with it.
        source: TarError,
    },
}

/// A layer read whole: its index, and its contents in its mapped tar.
#[derive(Debug)]
pub struct ReadLayer {
    /// The layer as the builder of deltas takes it.
    pub layer: SideLayer,
    tar: Bytes,
    parsed: ParsedLayer,
    dir: PathBuf,
}

impl ReadLayer {
    fn read(open: &OpenImage, number: usize, threads: NonZeroUsize, dir: &Path) -> Result<Self, LayerError> {
        let layer = open.layer(number)?;
        // The source has compared the tar with the diff ID.
        let parse = ParseOptions { threads, diff_id: false, ..ParseOptions::default() };
        let mut parsed = tar::parse(&layer, &parse).map_err(|source| {
            let on = format!("layer {number} of {}", open.name());
            LayerError::Layer { on, source }
        })?;
        let index = Arc::new(std::mem::take(&mut parsed.index));
        let bytes = layer.bytes().clone();
        let layer = SideLayer { diff_id: layer.diff_id(), tar_bytes: bytes.len() as u64, index };
        Ok(Self { layer, tar: Bytes::new(bytes), parsed, dir: dir.to_owned() })
    }
}

impl ContentSource for ReadLayer {
    fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
        let Some(place) = self.parsed.place(&content.digest) else { return Ok(None) };
        if place.extents.is_none() {
            let range = usize::try_from(place.offset)
                .ok()
                .and_then(|start| Some(start..start.checked_add(usize::try_from(place.content.size).ok()?)?));
            return Ok(range.and_then(|range| self.tar.slice(range)));
        }
        // A sparse file: expanded into a file of its own, where its holes cost nothing.
        let Some(bytes) = place.bytes(&self.tar) else { return Ok(None) };
        let file = tempfile::tempfile_in(&self.dir)?;
        bytes.write_to(&file)?;
        Ok(Some(Bytes::new(Map::file(&file)?)))
    }
}

/// The layers that were read, by diff ID, as long as someone holds them.
#[derive(Debug, Default)]
pub struct ReadLayers(Mutex<HashMap<Digest, Weak<ReadLayer>>>);

impl ReadLayers {
    /// Of each image its layers, lowest first. Those that were read and are still held are not read again; the others are on up to
    /// `threads` threads, four at most, each with its decompressor and buffers, and `told` is called after each. Sparse files are
    /// expanded into files without names in `dir` when they are asked for.
    ///
    /// # Errors
    /// The first layer seen that is damaged or cannot be fetched.
    pub fn read(
        &self,
        images: &[&OpenImage],
        threads: NonZeroUsize,
        dir: &Path,
        told: &(dyn Fn() + Sync),
    ) -> Result<Vec<Vec<Arc<ReadLayer>>>, LayerError> {
        let held = self.held(images);
        let missing = missing(images, &held);
        let bytes =
            missing.iter().map(|(image, number)| image.layers()[*number].size).fold(0, u64::saturating_add);
        let worth = usize::try_from(bytes / BYTES_EACH).unwrap_or(AT_ONCE).saturating_add(1);
        let workers = threads.get().min(AT_ONCE).min(missing.len()).min(worth);
        let (left, done) = (Mutex::new(missing.into_iter()), Mutex::new(Ok(held)));
        let next = || lock(&left).next();
        on_threads(workers, || {
            while let Some((image, number)) = next() {
                let read = ReadLayer::read(image, number, threads, dir);
                let mut done = lock(&done);
                let Ok(held) = &mut *done else { break };
                match read {
                    Ok(read) => drop(held.insert(read.layer.diff_id, Arc::new(read))),
                    Err(error) => *done = Err(error),
                }
                told();
            }
        });
        let held = done.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        lock(&self.0).extend(held.iter().map(|(diff_id, read)| (*diff_id, Arc::downgrade(read))));
        let of = |image: &&OpenImage| {
            image.layers().iter().filter_map(|layer| held.get(&layer.diff_id).cloned()).collect()
        };
        Ok(images.iter().map(of).collect())
    }

    /// Those layers of `images` that someone holds.
    fn held(&self, images: &[&OpenImage]) -> HashMap<Digest, Arc<ReadLayer>> {
        let read = lock(&self.0);
        let layers = images.iter().flat_map(|image| image.layers());
        layers.filter_map(|layer| Some((layer.diff_id, read.get(&layer.diff_id)?.upgrade()?))).collect()
    }
}

/// Each layer of `images` that is not among `held` once, the largest first: so none of the long ones is begun last.
fn missing<'a>(
    images: &[&'a OpenImage],
    held: &HashMap<Digest, Arc<ReadLayer>>,
) -> Vec<(&'a OpenImage, usize)> {
    let mut seen: HashSet<_> = held.keys().copied().collect();
    let mut missing = Vec::new();
    for &image in images {
        for (number, layer) in image.layers().iter().enumerate() {
            if seen.insert(layer.diff_id) {
                missing.push((layer.size, (image, number)));
            }
        }
    }
    missing.sort_by_key(|(size, _)| Reverse(*size));
    missing.into_iter().map(|(_, which)| which).collect()
}

/// What these locks guard is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
