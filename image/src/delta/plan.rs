//! The deltas that lead most cheaply from what a node has to an image.
//!
//! Lists are asked for backwards, from the image over the sources of its deltas, those in reach by the fewest bytes first; not beyond an
//! image that is on the node, nor where the deltas together cost more than pulling. What the node has may also be looked at only once a
//! delta starts from it. The choice itself is [`dimg::path::cheapest`]'s.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::fmt;

use dimg::Digest;
use dimg::path::{Edge, Present as Start, Weights, cheapest};

use super::{Published, SourceImage};
use crate::error::SourceError;

/// Images whose lists are asked for.
const MAX_IMAGES: usize = 64;
/// What unpacking a byte of a layer costs beside copying one: it is decompressed, and more than one.
const PULL_APPLY_FACTOR: u32 = 3;

/// An image on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Chain ID of its layers.
    pub chain_id: Option<Digest>,
    /// Bytes of it that are not there any more and would have to be fetched.
    pub missing_bytes: u64,
    /// Bytes of layers that have to be unpacked before deltas can start from it; 0 where its contents are at hand.
    pub packed_bytes: u64,
}

/// How an image gets onto a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It is there.
    Present,
    /// By these deltas, one after the other; of a base that is there, but packed, none may be needed.
    Deltas {
        /// The image of [`Present::manifest`] that is to be unpacked first.
        unpack: Option<Digest>,
        /// The deltas.
        deltas: Vec<Published>,
    },
    /// By pulling its layers.
    Pull(Why),
}

impl Choice {
    /// Whether there is at most one delta to fetch, so that nobody who makes deltas on demand has to be asked.
    pub fn is_at_once(&self) -> bool {
        match self {
            Self::Present => true,
            Self::Deltas { deltas, .. } => deltas.len() <= 1,
            Self::Pull(_) => false,
        }
    }
}

/// Why no deltas are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The registry has none that make the image.
    NoDeltas,
    /// None of them starts from what is on the node.
    NoPath {
        /// Images on the node.
        present: usize,
        /// Deltas that were looked at.
        deltas: usize,
    },
    /// Pulling costs less.
    Dearer {
        /// Bytes of the cheapest deltas.
        delta_bytes: u64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDeltas => f.write_str("the registry has no deltas for this image"),
            Self::NoPath { present, deltas } => {
                write!(f, "none of {deltas} deltas leads here from the {present} images on this node")
            }
            Self::Dearer { delta_bytes } => {
                write!(f, "the deltas, {delta_bytes} bytes, cost more than pulling")
            }
        }
    }
}

/// Chooses how the image `target`, whose layers cost `pull_bytes` to pull, gets onto a node that has `present`, and what `look` finds of
/// the images that deltas start from: for a node whose images cannot be listed. `list` gives the deltas that make an image.
///
/// # Errors
/// Those of `list`.
pub fn plan(
    target: Digest,
    pull_bytes: u64,
    present: &[Present],
    weights: &Weights,
    mut look: impl FnMut(&SourceImage) -> Option<Present>,
    mut list: impl FnMut(Digest) -> Result<Vec<Published>, SourceError>,
) -> Result<Choice, SourceError> {
    // What is at hand comes last, and counts.
    let mut sorted: Vec<&Present> = present.iter().collect();
    sorted.sort_by_key(|image| Reverse(image.packed_bytes));
    let mut starts: HashMap<Digest, Present> = sorted.iter().map(|&image| (image.manifest, *image)).collect();
    if starts.get(&target).is_some_and(|image| image.packed_bytes == 0) {
        return Ok(Choice::Present);
    }
    // The same layers under another manifest serve as well.
    let by_chain: HashMap<Digest, &Present> =
        sorted.iter().filter_map(|&image| Some((image.chain_id?, image))).collect();

    let mut deltas: Vec<Published> = Vec::new();
    let mut asked = BTreeSet::new();
    let mut queue = BinaryHeap::from([Reverse((0, target))]);
    while let Some(Reverse((bytes, image))) = queue.pop() {
        if asked.len() >= MAX_IMAGES || !asked.insert(image) {
            continue;
        }
        for delta in list(image)? {
            if let Some(source) = delta.source {
                if !starts.contains_key(&source.manifest)
                    && let Some(image) =
                        by_chain.get(&source.chain_id).map(|&image| *image).or_else(|| look(&source))
                {
                    starts.insert(source.manifest, image);
                }
                let bytes = delta.bytes.saturating_add(bytes);
                if !starts.contains_key(&source.manifest) && bytes < pull_bytes {
                    queue.push(Reverse((bytes, source.manifest)));
                }
            }
            deltas.push(delta);
        }
    }

    let mut edges: Vec<Edge<Digest>> = deltas
        .iter()
        .map(|delta| Edge {
            source: delta.source.map(|source| source.manifest),
            target: delta.target,
            fetch_bytes: delta.bytes,
            made_bytes: delta.made_bytes,
            apply_factor: 1,
        })
        .collect();
    let mut at_hand = Vec::new();
    // An image that is to be unpacked is one that costs nothing to fetch.
    let mut packed = Vec::new();
    for (&image, there) in &starts {
        if there.packed_bytes == 0 {
            at_hand.push(Start { image, missing_bytes: there.missing_bytes });
        } else {
            packed.push((image, there));
        }
    }
    packed.sort_by_key(|&(image, _)| image);
    edges.extend(packed.iter().map(|&(image, there)| Edge {
        source: None,
        target: image,
        fetch_bytes: there.missing_bytes,
        made_bytes: there.packed_bytes,
        apply_factor: PULL_APPLY_FACTOR,
    }));
    let by_deltas = cheapest(target, &at_hand, &edges, weights);
    let Some(by_deltas) = by_deltas else {
        let why = if deltas.is_empty() {
            Why::NoDeltas
        } else {
            Why::NoPath { present: present.len(), deltas: deltas.len() }
        };
        return Ok(Choice::Pull(why));
    };
    let pull = edges.len();
    edges.push(Edge {
        source: None,
        target,
        fetch_bytes: pull_bytes,
        made_bytes: pull_bytes,
        apply_factor: PULL_APPLY_FACTOR,
    });
    match cheapest(target, &at_hand, &edges, weights) {
        Some(path) if path.edges != [pull] => {
            let unpack = path.edges.first().and_then(|&number| packed.get(number.checked_sub(deltas.len())?));
            Ok(Choice::Deltas {
                unpack: unpack.map(|(_, there)| there.manifest),
                deltas: path.edges.iter().filter_map(|&number| deltas.get(number).cloned()).collect(),
            })
        }
        _ => Ok(Choice::Pull(Why::Dearer { delta_bytes: by_deltas.fetch_bytes })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Weights = Weights { fetch: 1, apply: 0, step: 0 };

    fn image(number: u8) -> Digest {
        Digest([number; 32])
    }

    fn delta(source: Option<u8>, target: u8, bytes: u64) -> Published {
        let source =
            source.map(|number| SourceImage { manifest: image(number), chain_id: image(100 + number) });
        let manifest = Digest::of(format!("{source:?} {target} {bytes}").as_bytes());
        Published { manifest, target: image(target), source, bytes, blob: None, made_bytes: 0 }
    }

    fn there(number: u8) -> Present {
        let (manifest, chain_id) = (image(number), Some(image(100 + number)));
        Present { manifest, chain_id, missing_bytes: 0, packed_bytes: 0 }
    }

    fn by(deltas: &[Published]) -> Choice {
        Choice::Deltas { unpack: None, deltas: deltas.to_vec() }
    }

    /// The choice for image 3, and the images whose deltas were asked for.
    fn choose(pull_bytes: u64, present: &[Present], deltas: &[Published]) -> (Choice, Vec<Digest>) {
        let mut asked = Vec::new();
        let choice = plan(
            image(3),
            pull_bytes,
            present,
            &BYTES,
            |_| None,
            |target| {
                asked.push(target);
                Ok(deltas.iter().filter(|delta| delta.target == target).cloned().collect())
            },
        );
        (choice.unwrap(), asked)
    }

    #[test]
    fn deltas_over_several_images() {
        let deltas =
            [delta(Some(0), 1, 10), delta(Some(1), 2, 10), delta(Some(2), 3, 10), delta(Some(0), 3, 50)];
        let (choice, asked) = choose(100, &[there(0)], &deltas);
        assert_eq!(choice, by(&deltas[..3]));
        assert_eq!(asked, [image(3), image(2), image(1)]);
        // What is there is not asked about.
        let (choice, asked) = choose(100, &[there(2)], &deltas);
        assert_eq!((choice, asked.len()), (by(&deltas[2..3]), 2));
        assert_eq!(choose(100, &[there(3)], &deltas), (Choice::Present, vec![]));
    }

    #[test]
    fn one_delta_of_more_bytes_may_be_cheaper_than_several() {
        let deltas = [delta(Some(0), 1, 10), delta(Some(1), 3, 10), delta(Some(0), 3, 50)];
        let steps = |step| {
            let weights = Weights { step, ..BYTES };
            let list = |target| Ok(deltas.iter().filter(|delta| delta.target == target).cloned().collect());
            plan(image(3), 100, &[there(0)], &weights, |_| None, list).unwrap()
        };
        assert_eq!((steps(20), steps(40)), (by(&deltas[..2]), by(&deltas[2..])));
    }

    #[test]
    fn pulling_and_why() {
        let deltas = [delta(Some(1), 2, 10), delta(Some(2), 3, 10)];
        assert_eq!(choose(100, &[there(0)], &[]).0, Choice::Pull(Why::NoDeltas));
        assert_eq!(choose(100, &[there(0)], &deltas).0, Choice::Pull(Why::NoPath { present: 1, deltas: 2 }));
        assert_eq!(choose(15, &[there(1)], &deltas).0, Choice::Pull(Why::Dearer { delta_bytes: 20 }));
        // Nothing leads to the costly end of the chain.
        assert_eq!(choose(10, &[there(1)], &deltas).1, [image(3)]);
    }

    #[test]
    fn base_files_and_other_manifests_of_the_same_layers() {
        let base = [delta(None, 3, 40)];
        assert_eq!(choose(100, &[], &base).0, by(&base));
        let deltas = [delta(Some(1), 3, 10)];
        let other = Present { manifest: image(9), ..there(1) };
        assert_eq!(choose(100, &[other], &deltas).0, by(&deltas));
        let partly = Present { missing_bytes: 95, ..there(1) };
        assert_eq!(choose(100, &[partly], &deltas).0, Choice::Pull(Why::Dearer { delta_bytes: 105 }));
    }

    #[test]
    fn what_is_packed_costs_only_time() {
        let deltas = [delta(Some(1), 3, 10), delta(Some(2), 3, 30)];
        let packed = Present { packed_bytes: 1000, ..there(1) };
        let unpacked = |number: Option<usize>| Choice::Deltas {
            unpack: Some(image(if number.is_some() { 1 } else { 3 })),
            deltas: number.map(|number| deltas[number].clone()).into_iter().collect(),
        };
        assert_eq!(choose(100, &[packed], &deltas), (unpacked(Some(0)), vec![image(3), image(2)]));
        // At hand as well, and so it is under another manifest.
        assert_eq!(choose(100, &[packed, there(1)], &deltas).0, by(&deltas[..1]));
        let other = Present { manifest: image(9), ..packed };
        let of_other = Choice::Deltas { unpack: Some(image(9)), deltas: deltas[..1].to_vec() };
        assert_eq!(choose(100, &[other], &deltas).0, of_other);
        // Whether its time is worth it is a matter of weights.
        let weigh = |apply| {
            let weights = Weights { fetch: 1, apply, step: 0 };
            plan(image(3), 100, &[packed, there(2)], &weights, |_| None, |_| Ok(deltas.to_vec())).unwrap()
        };
        assert_eq!((weigh(0), weigh(1)), (unpacked(Some(0)), by(&deltas[1..])));
        assert_eq!(choose(100, &[Present { packed_bytes: 9, ..there(3) }], &[]).0, unpacked(None));
    }

    #[test]
    fn what_is_looked_at_is_a_start() {
        let deltas = [delta(Some(1), 2, 10), delta(Some(2), 3, 10)];
        let found = Present { packed_bytes: 50, ..there(1) };
        let (mut looked, mut asked) = (Vec::new(), Vec::new());
        let look = |source: &SourceImage| {
            looked.push(source.manifest);
            (source.manifest == image(1)).then_some(found)
        };
        let choice = plan(image(3), 100, &[], &BYTES, look, |target| {
            asked.push(target);
            Ok(deltas.iter().filter(|delta| delta.target == target).cloned().collect())
        });
        let wanted = Choice::Deltas { unpack: Some(image(1)), deltas: deltas.to_vec() };
        assert_eq!(choice.unwrap(), wanted);
        assert_eq!((looked, asked), (vec![image(2), image(1)], vec![image(3), image(2)]));
    }

    #[test]
    fn loops_end() {
        let deltas = [delta(Some(2), 3, 1), delta(Some(3), 2, 1), delta(Some(3), 3, 1)];
        assert_eq!(choose(100, &[there(0)], &deltas).0, Choice::Pull(Why::NoPath { present: 1, deltas: 3 }));
    }
}
