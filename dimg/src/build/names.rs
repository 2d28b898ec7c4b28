//! Names of the parent's files, to find what a changed file was before: the same path, else the same name but for its
//! version.

use std::collections::{HashMap, HashSet};

use crate::index::edit::{Place, key};
use crate::index::{Content, Kind, LayerIndex};
use std::sync::Arc;

/// A file of the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub place: Place,
    pub content: Content,
}

/// What a content may be made from.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// What it may be a changed form of; the likeliest first.
    pub bases: Vec<Candidate>,
    /// Without those, what it may have words in common with.
    pub relative: Option<Candidate>,
}

/// The regular files of the layers, and their paths.
fn regular(layers: &[Arc<LayerIndex>]) -> impl Iterator<Item = (Candidate, &[u8])> {
    (0u32..).zip(layers).flat_map(|(number, layer)| {
        (0u32..).zip(&layer.entries).filter_map(move |(at, entry)| {
            let content = entry.content.filter(|_| layer.kind(entry) == Kind::Regular)?;
            Some((Candidate { place: Place { layer: number, entry: at }, content }, &*entry.path))
        })
    })
}

/// Those that are `wanted`, each content once: where it is first.
pub(super) fn distinct(
    layers: &[Arc<LayerIndex>],
    wanted: impl Fn(&Candidate) -> bool,
) -> impl Iterator<Item = (Candidate, &[u8])> {
    let mut seen = HashSet::new();
    regular(layers).filter(move |(candidate, _)| wanted(candidate) && seen.insert(candidate.content.digest))
}

/// The parent's regular files by path and by stem.
#[derive(Debug, Default)]
pub(super) struct Names {
    paths: HashMap<Vec<u8>, Candidate>,
    stems: HashMap<Vec<u8>, Vec<Candidate>>,
}

impl Names {
    /// Indexes all layers; of files with one path the topmost counts.
    pub(super) fn new(layers: &[Arc<LayerIndex>]) -> Self {
        let mut names = Self::default();
        for (candidate, path) in regular(layers) {
            names.paths.insert(key(path).to_vec(), candidate);
            names.stems.entry(stem(path)).or_default().push(candidate);
        }
        names
    }

    /// What was at this path.
    pub(super) fn at(&self, path: &[u8]) -> Option<Candidate> {
        self.paths.get(key(path)).copied()
    }

    /// The file of the same stem whose size is nearest; of equals the one named last.
    pub(super) fn like(&self, path: &[u8], size: u64) -> Option<Candidate> {
        let same = self.stems.get(&stem(path))?;
        same.iter().rev().min_by_key(|candidate| candidate.content.size.abs_diff(size)).copied()
    }
}

/// The last component with every run of digits, or of eight and more hex digits, replaced by one mark: versions and
/// content hashes in names (`libfoo.so.1.2`, `app.3fa94c01.js`) do not tell files apart.
fn stem(path: &[u8]) -> Vec<u8> {
    let name = key(path).rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let mut stem = Vec::with_capacity(name.len());
    let mut at = 0;
    while at < name.len() {
        let run = |is: fn(&u8) -> bool| name[at..].iter().take_while(|byte| is(byte)).count();
        let (digits, hex) = (run(u8::is_ascii_digit), run(u8::is_ascii_hexdigit));
        let starts_word = at == 0 || !name[at - 1].is_ascii_alphanumeric();
        let skipped = if starts_word && hex >= 8 { hex } else { digits };
        if skipped == 0 {
            stem.push(name[at]);
            at += 1;
        } else {
            stem.push(0);
            at += skipped;
        }
    }
    // Versions of different depth: 1.2 and 1.2.3.
    while let Some(found) = stem.windows(3).position(|part| matches!(part, [0, b'.' | b'-' | b'_', 0])) {
        stem.drain(found + 1..found + 3);
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_ignore_versions_and_hashes() {
        for (one, other) in [
            ("usr/lib/libssl.so.1.1", "./usr/lib64/libssl.so.3"),
            ("a/libfoo.so.1.2", "a/libfoo.so.1.2.3"),
            ("app.3fa94c01.js", "app.9bcd1245.js"),
            ("numpy-1.26.4.dist-info", "numpy-2.0.dist-info"),
        ] {
            assert_eq!(stem(one.as_bytes()), stem(other.as_bytes()), "{one} {other}");
        }
        assert_ne!(stem(b"decade.txt"), stem(b"facade.txt"));
        assert_ne!(stem(b"libfoo.so"), stem(b"libbar.so"));
        assert_eq!(stem(b""), b"");
    }
}
