//! Contents of the parent by what is in them, for new contents of which no name tells what they were before.

use super::names::Candidate;
use crate::content::{ContentSource, open_exact};
use crate::engine::sketch::{MIN_CONTENT_BYTES, Sketch, SketchIndex};
use crate::index::edit::Place;
use crate::index::{Content, Kind, LayerIndex};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The parent's contents by their sketches.
pub(super) struct Similar {
    candidates: Vec<Candidate>,
    index: SketchIndex,
}

impl Similar {
    /// Reads all contents of the parent. One that cannot be read is no candidate; whoever needs it will say why.
    pub(super) fn new(layers: &[Arc<LayerIndex>], contents: &dyn ContentSource, threads: usize) -> Self {
        let mut seen = HashSet::new();
        let mut candidates = Vec::new();
        for (number, layer) in (0u32..).zip(layers) {
            for (at, entry) in (0u32..).zip(&layer.entries) {
                let Some(content) = entry.content.filter(|_| layer.kind(entry) == Kind::Regular) else {
                    continue;
                };
                if tells(&content) && seen.insert(content.digest) {
                    candidates.push(Candidate { place: Place { layer: number, entry: at }, content });
                }
            }
        }
        let next = AtomicUsize::new(0);
        let sketches = Mutex::new(vec![Sketch::default(); candidates.len()]);
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(candidate) = candidates.get(number) else { break };
                        let Ok(bytes) = open_exact(contents, &candidate.content) else { continue };
                        let sketch = Sketch::of(&bytes);
                        sketches.lock().unwrap_or_else(PoisonError::into_inner)[number] = sketch;
                    }
                });
            }
        });
        let mut index = SketchIndex::default();
        let sketches = sketches.into_inner().unwrap_or_else(PoisonError::into_inner);
        for ((number, candidate), sketch) in (0u32..).zip(&candidates).zip(&sketches) {
            index.insert(number, candidate.content.size, sketch);
        }
        Self { candidates, index }
    }

    /// The content of the parent that is most like `content`, if any is.
    pub(super) fn to(&self, content: &Content, contents: &dyn ContentSource) -> Option<Candidate> {
        let bytes = open_exact(contents, content).ok()?;
        let number = self.index.most_similar(content.size, &Sketch::of(&bytes))?;
        self.candidates.get(usize::try_from(number).ok()?).copied()
    }
}

/// Whether a content is long enough for a sketch.
pub(super) fn tells(content: &Content) -> bool {
    content.size >= MIN_CONTENT_BYTES as u64
}
