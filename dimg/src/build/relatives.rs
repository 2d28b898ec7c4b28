//! For new contents that are a changed form of nothing: the content of the parent, of the same kind, that shares most words with
//! them. They are compressed behind it.
//!
//! A word is eight bytes at any place; of all words a fixed part is looked at. Memory is that of the new contents' words; the
//! parent's contents are read once.

use super::BuildOptions;
use super::encode::refers;
use super::groups::Class;
use super::names::{Candidate, distinct};
use super::near::nearest;
use crate::content::{ContentSource, open_exact};
use crate::engine::frame::MAX_REFERENCE_BYTES;
use crate::engine::parallel::map;
use crate::index::{Content, LayerIndex};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a new content that are looked at, at most.
const LOOK_BYTES: usize = 1 << 20;
/// The same of all new contents.
const ALL_BYTES: usize = 64 << 20;
/// Bytes of all bases together, at most, beside as many as there are new ones: compressing goes through them.
const ALL_BASE_BYTES: u64 = 8 << 20;
/// Words that two contents must share, of those looked at.
const MIN_SHARED: u32 = 16;
/// A word that more new contents have says nothing about any of them.
const MAX_HOLDERS: usize = 64;
/// One word in so many is looked at.
const SAMPLED: u64 = 32;
/// The weight of a word that one content has.
const RARE: u64 = 1 << 16;
/// Logarithm of the bits that tell most foreign words from known ones.
const FILTER_LOG: u32 = 20;

/// New contents and their words.
pub(super) struct Relatives<'a> {
    wanted: Vec<(usize, Content, &'a [u8])>,
    /// The kinds that there are, and which one each of them is of.
    kinds: Vec<Class>,
    kind_of: Vec<usize>,
    /// Numbers in `wanted`, by word.
    holders: HashMap<u64, Vec<u32>>,
    filter: Vec<u64>,
}

/// How good a base is; more is better.
type Rank = (u64, Reverse<u64>, Reverse<usize>);

impl<'a> Relatives<'a> {
    /// Whether a content may be compressed behind another.
    pub(super) fn wants(content: &Content) -> bool {
        (super::encode::REFERENCE_BYTES..=MAX_REFERENCE_BYTES).contains(&content.size)
    }

    /// Takes the words of new contents, each with a number and a path. One that cannot be read has none; whoever makes it will say why.
    pub(super) fn new(wanted: Vec<(usize, Content, &'a [u8])>, contents: &dyn ContentSource) -> Self {
        let mut left = ALL_BYTES;
        let mut relatives = Self {
            wanted: Vec::new(),
            kinds: Vec::new(),
            kind_of: Vec::new(),
            holders: HashMap::new(),
            filter: vec![0; 1 << (FILTER_LOG - 6)],
        };
        for (number, content, path) in wanted {
            let Ok(bytes) = open_exact(contents, &content) else { continue };
            let looked = bytes.len().min(LOOK_BYTES);
            let Some(rest) = left.checked_sub(looked) else { break };
            left = rest;
            let at = u32::try_from(relatives.wanted.len()).unwrap_or(u32::MAX);
            for word in words(&bytes[..looked]) {
                let (place, bit) = filter_bit(word);
                relatives.filter[place] |= bit;
                let holders = relatives.holders.entry(word).or_default();
                // One more than counts, to see that there are too many.
                if holders.last() != Some(&at) && holders.len() <= MAX_HOLDERS {
                    holders.push(at);
                }
            }
            let class = Class::of(path, &bytes);
            let known = relatives.kinds.iter().position(|kind| *kind == class);
            relatives.kind_of.push(known.unwrap_or(relatives.kinds.len()));
            relatives.kinds.extend(known.is_none().then_some(class));
            relatives.wanted.push((number, content, path));
        }
        relatives
    }

    /// The best content of the parent for each new one that has any, by the number given with it.
    pub(super) fn find(
        &self,
        layers: &[Arc<LayerIndex>],
        contents: &dyn ContentSource,
        options: &BuildOptions,
    ) -> HashMap<usize, Candidate> {
        let candidates = self.candidates(layers, options);
        let known = map(options.threads.get(), candidates.len(), |number| {
            let (candidate, path) = &candidates[number];
            self.known(candidate, path, contents)
        });
        let best = self.best(&candidates, &known, options);
        let all: u64 = self.wanted.iter().map(|(_, content, _)| content.size).sum();
        let mut found = HashMap::new();
        let mut left = ALL_BASE_BYTES.saturating_add(all);
        for ((number, ..), best) in self.wanted.iter().zip(best) {
            let Some((candidate, _)) = best.and_then(|number| candidates.get(number)) else { continue };
            if let Some(rest) = left.checked_sub(candidate.content.size) {
                left = rest;
                found.insert(*number, *candidate);
            }
        }
        found
    }

    /// The distinct contents of the parent that are of use for any new one and lie near, and a path of each.
    fn candidates<'l>(
        &self,
        layers: &'l [Arc<LayerIndex>],
        options: &BuildOptions,
    ) -> Vec<(Candidate, &'l [u8])> {
        let Some(largest) =
            self.wanted.iter().map(|(_, content, _)| content).max_by_key(|content| content.size)
        else {
            return Vec::new();
        };
        let of_use =
            |candidate: &Candidate| Self::wants(&candidate.content) && refers(largest, candidate, options);
        let paths: Vec<_> = self.wanted.iter().map(|(_, _, path)| *path).collect();
        let bytes = self.wanted.iter().map(|(_, content, _)| content.size).sum();
        nearest(distinct(layers, of_use).collect(), &paths, bytes)
    }

    /// The words that the candidate shares with new contents of its kind, each once.
    fn known(&self, candidate: &Candidate, path: &[u8], contents: &dyn ContentSource) -> Vec<u64> {
        let Ok(bytes) = open_exact(contents, &candidate.content) else { return Vec::new() };
        let class = Class::of(path, &bytes);
        let Some(kind) = self.kinds.iter().position(|kind| *kind == class) else { return Vec::new() };
        let is_known = |word: &u64| {
            let (place, bit) = filter_bit(*word);
            self.filter[place] & bit != 0
                && self.holders.get(word).is_some_and(|holders| {
                    holders.len() <= MAX_HOLDERS
                        && holders.iter().any(|&at| self.kind_of[at as usize] == kind)
                })
        };
        let mut known: Vec<u64> = words(&bytes).filter(is_known).collect();
        known.sort_unstable();
        known.dedup();
        known
    }

    /// The candidate that tells most for each new content, where one does. A word that few candidates have tells more than one that
    /// all of their kind have.
    fn best(
        &self,
        candidates: &[(Candidate, &[u8])],
        known: &[Vec<u64>],
        options: &BuildOptions,
    ) -> Vec<Option<usize>> {
        let mut having: HashMap<u64, u32> = HashMap::new();
        for word in known.iter().flatten() {
            *having.entry(*word).or_default() += 1;
        }
        let mut best = vec![None::<(Rank, usize)>; self.wanted.len()];
        for (number, ((candidate, _), words)) in candidates.iter().zip(known).enumerate() {
            let mut shared: HashMap<usize, (u32, u64)> = HashMap::new();
            for word in words {
                let weight = RARE / u64::from(having.get(word).copied().unwrap_or(1));
                for &at in self.holders.get(word).into_iter().flatten() {
                    let (count, sum) = shared.entry(at as usize).or_default();
                    *count += 1;
                    *sum += weight;
                }
            }
            for (at, (count, sum)) in shared {
                let rank = (sum, Reverse(candidate.content.size), Reverse(number));
                if count >= MIN_SHARED
                    && refers(&self.wanted[at].1, candidate, options)
                    && best[at].is_none_or(|(other, _)| rank > other)
                {
                    best[at] = Some((rank, number));
                }
            }
        }
        best.into_iter().map(|best| best.map(|(_, number)| number)).collect()
    }
}

/// The words of a content that are looked at, mixed.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.windows(8).filter_map(|window| {
        let word = u64::from_le_bytes(window.try_into().unwrap_or_default());
        let mixed = word.wrapping_mul(0x9fb2_1c65_1e98_df25);
        (mixed >> 32 & (SAMPLED - 1) == 0 && word != 0).then_some(mixed)
    })
}

fn filter_bit(word: u64) -> (usize, u64) {
    let bit = word >> (64 - FILTER_LOG);
    (usize::try_from(bit >> 6).unwrap_or(0), 1 << (bit & 63))
}
