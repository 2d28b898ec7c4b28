//! The content of the parent that is more like a new one than what names tell of, for patches that turn out large: what was one file
//! may be told apart from its past by a build, while another has become like it.

use super::names::{Candidate, distinct};
use super::near::nearest_within;
use super::similar::tells;
use crate::Digest;
use crate::content::{ContentSource, open_exact};
use crate::engine::sketch::{Sketch, SketchIndex};
use crate::index::LayerIndex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// Bytes of the parent that are read for each of the new content: a part of the time of a patch that is poor.
const BYTES_EACH: u64 = 4;
/// A content is worth a patch when it shares so many hashes more than any that a name tells of.
const MIN_MORE: usize = 4;
/// What it has is at least this part of the new content.
const LEAST_PART: u64 = 2;

/// The parent's contents; sketches are made when first needed, and kept.
pub(super) struct Alike<'a> {
    pub(super) contents: &'a dyn ContentSource,
    layers: &'a [Arc<LayerIndex>],
    sketched: OnceLock<Sketched>,
}

/// Contents that are long enough, by size, and their sketches.
struct Sketched {
    candidates: Vec<Candidate>,
    sketches: HashMap<Digest, OnceLock<Sketch>>,
}

impl<'a> Alike<'a> {
    pub(super) fn new(contents: &'a dyn ContentSource, layers: &'a [Arc<LayerIndex>]) -> Self {
        Self { contents, layers, sketched: OnceLock::new() }
    }

    /// The content that shares most with `new`, if it clearly shares more than any of the `bases`. It is no longer than `new` or the
    /// longest of these.
    pub(super) fn to(&self, path: &[u8], new: &[u8], bases: &[Candidate]) -> Option<Candidate> {
        let size = new.len() as u64;
        let most = bases.iter().map(|base| base.content.size).fold(size, u64::max);
        let sketched = self.sketched.get_or_init(|| Sketched::new(self.layers));
        let is_other =
            |candidate: &&Candidate| bases.iter().all(|base| base.content.digest != candidate.content.digest);
        let others = sketched.between(size / LEAST_PART, most).iter().filter(is_other);
        let others = others.map(|candidate| (*candidate, self.path(candidate))).collect();
        let near = nearest_within(others, &[path], size.saturating_mul(BYTES_EACH));
        let sketch = Sketch::of(new);
        let of = |candidate: &Candidate| sketched.sketch(candidate, self.contents);
        let known = bases.iter().map(|base| of(base).map_or(0, |base| base.shared(&sketch))).max();
        let sketches = near.iter().map(|(candidate, _)| (candidate.content.size, of(candidate)));
        let none = Sketch::default();
        let index = SketchIndex::new(sketches.map(|(size, sketch)| (size, sketch.unwrap_or(&none))));
        let best = usize::try_from(index.most_similar(size, &sketch)?).ok()?;
        let (candidate, _) = near.get(best)?;
        let shared = of(candidate)?.shared(&sketch);
        (shared >= known.unwrap_or(0) + MIN_MORE).then_some(*candidate)
    }

    fn path(&self, Candidate { place, .. }: &Candidate) -> &'a [u8] {
        let layer = self.layers.get(place.layer as usize);
        layer.and_then(|layer| layer.entries.get(place.entry as usize)).map_or(&[], |entry| &entry.path)
    }
}

impl Sketched {
    fn new(layers: &[Arc<LayerIndex>]) -> Self {
        let candidates = distinct(layers, |candidate| tells(&candidate.content));
        let mut candidates: Vec<_> = candidates.map(|(candidate, _)| candidate).collect();
        candidates.sort_by_key(|candidate| candidate.content.size);
        let digests = candidates.iter().map(|candidate| candidate.content.digest);
        Self { sketches: digests.map(|digest| (digest, OnceLock::new())).collect(), candidates }
    }

    /// Those of at least and at most so many bytes.
    fn between(&self, least: u64, most: u64) -> &[Candidate] {
        let below = |bytes: u64| self.candidates.partition_point(|known| known.content.size < bytes);
        self.candidates.get(below(least)..below(most.saturating_add(1))).unwrap_or_default()
    }

    /// The sketch of a content; an empty one where it cannot be read.
    fn sketch(&self, candidate: &Candidate, contents: &dyn ContentSource) -> Option<&Sketch> {
        let sketch = self.sketches.get(&candidate.content.digest)?;
        Some(sketch.get_or_init(|| {
            open_exact(contents, &candidate.content)
                .map_or_else(|_| Sketch::default(), |bytes| Sketch::of(&bytes))
        }))
    }
}
