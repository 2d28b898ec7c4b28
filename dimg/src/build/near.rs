//! Which of the parent's contents are looked at for new ones that no name tells of: those whose paths have most in common with theirs.
//!
//! A look reads them. What that can gain is bounded by what is new, so what is read is too: a few files that come to a large image do
//! not have all of it read.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::names::Candidate;

/// Bytes of the parent that are read for each new one.
const BYTES_EACH: u64 = 64;
/// Bytes that are read for any.
const MIN_BYTES: u64 = 8 << 20;
/// The weight of a word that one path has.
const RARE: u64 = 1 << 32;

/// Those of `candidates` whose paths have most in common with the new contents', which have these `paths` and `bytes` in all; as many as
/// may be read.
pub(super) fn nearest<'l>(
    candidates: Vec<(Candidate, &'l [u8])>,
    paths: &[&[u8]],
    bytes: u64,
) -> Vec<(Candidate, &'l [u8])> {
    nearest_within(candidates, paths, bytes.saturating_mul(BYTES_EACH).max(MIN_BYTES))
}

/// The same, of which `left` bytes may be read. A word that few candidates have in their paths tells more than one that many have.
pub(super) fn nearest_within<'l>(
    mut candidates: Vec<(Candidate, &'l [u8])>,
    paths: &[&[u8]],
    mut left: u64,
) -> Vec<(Candidate, &'l [u8])> {
    let all = candidates.iter().fold(0u64, |sum, (candidate, _)| sum.saturating_add(candidate.content.size));
    if all <= left {
        return candidates;
    }
    let known: HashSet<&[u8]> = paths.iter().flat_map(|path| words(path)).collect();
    let mut having: HashMap<&[u8], u64> = HashMap::new();
    for word in candidates.iter().flat_map(|(_, path)| words(path)).filter(|word| known.contains(word)) {
        *having.entry(word).or_default() += 1;
    }
    candidates.sort_by_cached_key(|(_, path)| {
        Reverse(words(path).filter_map(|word| Some(RARE / having.get(word)?)).sum::<u64>())
    });
    candidates.retain(|(candidate, _)| {
        let rest = left.checked_sub(candidate.content.size);
        left = rest.unwrap_or(left);
        rest.is_some()
    });
    candidates
}

/// The runs of letters and digits in a path.
fn words(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::index::Content;
    use crate::index::edit::Place;

    #[test]
    fn those_of_rare_words_are_looked_at_first_and_no_more_than_may_be_read() {
        let paths: Vec<Vec<u8>> =
            (0..100).map(|number| format!("usr/lib/thing{number}/a.so").into_bytes()).collect();
        let candidates: Vec<_> = (0u32..)
            .zip(&paths)
            .map(|(entry, path)| {
                let content = Content { digest: Digest([0; 32]), size: MIN_BYTES / 4 };
                (Candidate { place: Place { layer: 0, entry }, content }, &**path)
            })
            .collect();
        let near = |bytes| nearest(candidates.clone(), &[b"opt/thing70/a.so", b"usr/thing8-b"], bytes);
        let chosen: Vec<_> = near(0).iter().map(|(candidate, _)| candidate.place.entry).collect();
        assert_eq!(chosen, [8, 70, 0, 1]);
        assert_eq!(near(MIN_BYTES / BYTES_EACH * 2).len(), 8);
        assert_eq!(near(MIN_BYTES), candidates);
        assert!(nearest(Vec::new(), &[b"a"], 0).is_empty());
    }
}
