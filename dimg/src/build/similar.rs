//! Contents of the parent by what is in them, for new contents of which no name tells what they were before.

use super::names::{Candidate, distinct};
use super::near::nearest;
use crate::content::{ContentSource, open_exact};
use crate::engine::compress::Level;
use crate::engine::parallel::map;
use crate::engine::sketch::{MIN_CONTENT_BYTES, Sketch, SketchIndex};
use crate::index::{Content, LayerIndex};
use std::sync::Arc;

/// Of two contents the longer has at most so many times the bytes of the other, to be called similar: a quarter more than what the share
/// of hashes asked for means for one that is a part of the other.
const MAX_RATIO: u64 = 10;
/// The same at the fast level, where sketches of all would take an eighth of the time of a large image.
const MAX_RATIO_FAST: u64 = 2;

/// The parent's contents by their sketches.
pub(super) struct Similar {
    candidates: Vec<Candidate>,
    index: SketchIndex,
}

impl Similar {
    /// Reads the contents of the parent that have about as many bytes as any of those `wanted`, given with their paths, and lie near:
    /// of other sizes share too few of the smallest hashes. One that cannot be read is no candidate; whoever needs it will say why.
    pub(super) fn new(
        wanted: &[(u64, &[u8])],
        layers: &[Arc<LayerIndex>],
        contents: &dyn ContentSource,
        level: Level,
        threads: usize,
    ) -> Self {
        let max_ratio = if level == Level::Fast { MAX_RATIO_FAST } else { MAX_RATIO };
        let (mut sizes, paths): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
        sizes.sort_unstable();
        let tells = |candidate: &Candidate| {
            let size = candidate.content.size;
            let first = sizes.partition_point(|&wanted| wanted < size / max_ratio);
            let alike = sizes.get(first).is_some_and(|&wanted| wanted <= size.saturating_mul(max_ratio));
            tells(&candidate.content) && alike
        };
        let near = nearest(distinct(layers, tells).collect(), &paths, sizes.iter().sum());
        let candidates: Vec<_> = near.into_iter().map(|(candidate, _)| candidate).collect();
        let sketches = map(threads, candidates.len(), |number| {
            open_exact(contents, &candidates[number].content)
                .map_or_else(|_| Sketch::default(), |bytes| Sketch::of(&bytes))
        });
        let sizes = candidates.iter().map(|candidate| candidate.content.size);
        let index = SketchIndex::new(sizes.zip(&sketches));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::content::Bytes;
    use crate::index::edit::Place;
    use crate::index::{Entry, Kind, Shape, Tail};
    use std::collections::HashMap;
    use std::io;

    struct Contents(HashMap<Digest, Vec<u8>>);

    impl ContentSource for Contents {
        fn open(&self, content: &Content) -> io::Result<Option<Bytes>> {
            Ok(self.0.get(&content.digest).map(|bytes| Bytes::from(bytes.clone())))
        }
    }

    fn text(seed: usize) -> Vec<u8> {
        (0..400).flat_map(|line| format!("{seed} {}\n", line * line * (seed + 7)).into_bytes()).collect()
    }

    fn content(bytes: &[u8]) -> Content {
        Content { digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    fn entry(number: usize, content: Content) -> Entry {
        Entry {
            shape: 0,
            path: format!("file{number}").into_bytes().into(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            uname: [].into(),
            gname: [].into(),
            mtime: 0,
            mtime_nsec: 0,
            dev_major: 0,
            dev_minor: 0,
            link: [].into(),
            pax: [].into(),
            content: Some(content),
            bare_size: 0,
            sparse: [].into(),
            raw: [].into(),
        }
    }

    #[test]
    fn a_renamed_and_edited_file_is_found_with_any_number_of_threads() {
        let mut contents = Contents((0..20).map(text).map(|bytes| (Digest::of(&bytes), bytes)).collect());
        let entries = (0..20).map(|number| entry(number, content(&text(number)))).collect();
        let shape =
            Shape { kind: Kind::Regular, raw: false, sparse: false, pax_keys: vec![], style: [1].into() };
        let tail = Tail { zero_bytes: 1024, rest: [].into() };
        let layers = [Arc::new(LayerIndex { shapes: vec![shape], entries, tail })];
        let edited = [&text(13)[200..], b"and more"].concat();
        let (edited, other) = (content(&edited), content(b"short"));
        contents.0.insert(edited.digest, [&text(13)[200..], b"and more"].concat());
        for threads in [1, 4] {
            let similar =
                Similar::new(&[(edited.size, b"file")], &layers, &contents, Level::Default, threads);
            let found = similar.to(&edited, &contents).map(|candidate| candidate.place);
            assert_eq!(found, Some(Place { layer: 0, entry: 13 }));
            assert!(similar.to(&other, &contents).is_none());
        }
    }
}
