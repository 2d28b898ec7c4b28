//! The cheapest way from what a node has to an image, through the deltas that are known.
//!
//! Images are the nodes of a graph and deltas its edges; several deltas between two images, loops and parts that hang
//! together with nothing are all fine. A path is weighed by the bytes to fetch, the work to apply and the number of its steps, in one
//! unit: [`Weights`] says what each is worth. Among paths of the same cost the one of fewer deltas is taken, then the one that comes first in
//! the order of the deltas given: the result depends on the input alone.
//!
//! An image that is only partly on the node, because contents of it were evicted, can still be a start: what is missing has to be
//! fetched too, and counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::Hash;

/// A delta that could be fetched and applied, or a whole image that could be pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge<I> {
    /// The image that it starts from; none for what needs no image: a base file, or pulling the layers.
    pub source: Option<I>,
    /// The image that it makes.
    pub target: I,
    /// Bytes to fetch; 0 for one that is on the node already.
    pub fetch_bytes: u64,
    /// Bytes that are made when it is applied.
    pub made_bytes: u64,
    /// How costly it is to make one of them: 1 for copying and plain programs, more for what is compressed again.
    pub apply_factor: u32,
}

/// An image that is on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present<I> {
    /// The image.
    pub image: I,
    /// Bytes of it that are not there any more and would have to be fetched before it can be a start.
    pub missing_bytes: u64,
}

/// What a byte is worth, and a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// A byte fetched.
    pub fetch: u64,
    /// A byte made, with an apply factor of 1.
    pub apply: u64,
    /// A delta or a pull, whatever its size: it is asked for, and what it makes is flushed.
    pub step: u64,
}

impl Default for Weights {
    /// A network of 25 MB/s, plain programs applied at 1 GB/s, 10 ms for a step: what 250 KB take to fetch.
    fn default() -> Self {
        Self { fetch: 40, apply: 1, step: 10_000_000 }
    }
}

/// Why an image is reached as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<I> {
    /// The image to start from; none when nothing that is on the node is used.
    pub start: Option<I>,
    /// The deltas to apply, in order, as numbers in the list given; empty when the image is there.
    pub edges: Vec<usize>,
    /// Bytes to fetch, what is missing of the start included.
    pub fetch_bytes: u64,
    /// Bytes that are made on the way.
    pub made_bytes: u64,
    /// All of it by the weights.
    pub cost: u64,
}

/// What has to be paid to have an image: compared first by the cost, then by the number of deltas, then by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Price {
    cost: u64,
    edges: u32,
    last: Option<usize>,
}

/// How an image is reached: by a delta, or because it is there.
#[derive(Debug, Clone, Copy)]
struct Reached {
    price: Price,
    missing_bytes: u64,
}

fn edge_cost<I>(edge: &Edge<I>, weights: &Weights) -> u64 {
    let apply = edge.made_bytes.saturating_mul(u64::from(edge.apply_factor)).saturating_mul(weights.apply);
    edge.fetch_bytes.saturating_mul(weights.fetch).saturating_add(apply).saturating_add(weights.step)
}

/// The cheapest path to `target` from any image of `present`, or from nothing, through `edges`; `None` when there is none.
pub fn cheapest<I: Copy + Eq + Hash + Ord>(
    target: I,
    present: &[Present<I>],
    edges: &[Edge<I>],
    weights: &Weights,
) -> Option<Path<I>> {
    let mut from: HashMap<Option<I>, Vec<usize>> = HashMap::new();
    for (number, edge) in edges.iter().enumerate() {
        from.entry(edge.source).or_default().push(number);
    }
    let mut reached: HashMap<I, Reached> = HashMap::new();
    let mut queue = BinaryHeap::new();
    let offer = |reached: &mut HashMap<I, Reached>, queue: &mut BinaryHeap<_>, image: I, new: Reached| {
        if reached.get(&image).is_none_or(|old| new.price < old.price) {
            reached.insert(image, new);
            queue.push(Reverse((new.price, image)));
        }
    };
    // In the order of the images, so that the order of the list does not matter.
    let present: BTreeMap<I, u64> = present.iter().map(|there| (there.image, there.missing_bytes)).collect();
    for (&image, &missing_bytes) in &present {
        let price = Price { cost: missing_bytes.saturating_mul(weights.fetch), edges: 0, last: None };
        offer(&mut reached, &mut queue, image, Reached { price, missing_bytes });
    }
    let follow = |before: Price, number: usize| {
        let cost = before.cost.saturating_add(edge_cost(&edges[number], weights));
        let price = Price { cost, edges: before.edges.saturating_add(1), last: Some(number) };
        Reached { price, missing_bytes: 0 }
    };
    let nothing = Price { cost: 0, edges: 0, last: None };
    for &number in from.get(&None).into_iter().flatten() {
        offer(&mut reached, &mut queue, edges[number].target, follow(nothing, number));
    }
    while let Some(Reverse((price, image))) = queue.pop() {
        if image == target {
            break;
        }
        if reached.get(&image).is_none_or(|best| best.price != price) {
            continue;
        }
        for &number in from.get(&Some(image)).into_iter().flatten() {
            offer(&mut reached, &mut queue, edges[number].target, follow(price, number));
        }
    }
    walk_back(target, &reached, edges)
}

/// The path that reached `target`.
fn walk_back<I: Copy + Eq + Hash>(
    target: I,
    reached: &HashMap<I, Reached>,
    edges: &[Edge<I>],
) -> Option<Path<I>> {
    let cost = reached.get(&target)?.price.cost;
    let mut path = Path { start: Some(target), edges: Vec::new(), fetch_bytes: 0, made_bytes: 0, cost };
    // Every delta of a path makes an image that was not reached more cheaply before: there is no loop.
    while let Some(image) = path.start {
        let found = reached.get(&image)?;
        let Some(number) = found.price.last else {
            path.fetch_bytes = path.fetch_bytes.saturating_add(found.missing_bytes);
            break;
        };
        let edge = edges.get(number)?;
        path.edges.push(number);
        path.fetch_bytes = path.fetch_bytes.saturating_add(edge.fetch_bytes);
        path.made_bytes = path.made_bytes.saturating_add(edge.made_bytes);
        path.start = edge.source;
    }
    path.edges.reverse();
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BYTES: Weights = Weights { fetch: 1, apply: 0, step: 0 };

    fn edge(source: Option<u8>, target: u8, fetch_bytes: u64) -> Edge<u8> {
        Edge { source, target, fetch_bytes, made_bytes: 0, apply_factor: 1 }
    }

    fn there(image: u8) -> Present<u8> {
        Present { image, missing_bytes: 0 }
    }

    #[test]
    fn an_image_that_is_there_costs_nothing() {
        let path = cheapest(1, &[there(1)], &[edge(None, 1, 100)], &BYTES).unwrap();
        assert_eq!(path, Path { start: Some(1), edges: vec![], fetch_bytes: 0, made_bytes: 0, cost: 0 });
    }

    #[test]
    fn the_fewest_bytes_win_whatever_the_number_of_deltas() {
        let edges = [edge(Some(1), 3, 100), edge(Some(1), 2, 30), edge(Some(2), 3, 30), edge(None, 3, 500)];
        let path = cheapest(3, &[there(1)], &edges, &BYTES).unwrap();
        assert_eq!((path.start, path.edges, path.fetch_bytes), (Some(1), vec![1, 2], 60));
        // A later image is there, too.
        let path = cheapest(3, &[there(1), there(2)], &edges, &BYTES).unwrap();
        assert_eq!((path.start, path.edges), (Some(2), vec![2]));
        // Nothing is there.
        let path = cheapest(3, &[], &edges, &BYTES).unwrap();
        assert_eq!((path.start, path.edges, path.cost), (None, vec![3], 500));
        assert_eq!(cheapest(4, &[there(1)], &edges, &BYTES), None);
    }

    #[test]
    fn applying_counts() {
        let slow = Edge { made_bytes: 1000, apply_factor: 10, ..edge(Some(1), 2, 10) };
        let edges = [slow, edge(Some(1), 2, 200)];
        let weights = Weights { fetch: 40, apply: 1, step: 0 };
        assert_eq!(cheapest(2, &[there(1)], &edges, &weights).unwrap().edges, [1]);
        let weights = Weights { fetch: 400, apply: 1, step: 0 };
        let path = cheapest(2, &[there(1)], &edges, &weights).unwrap();
        assert_eq!((path.edges, path.made_bytes, path.cost), (vec![0], 1000, 14_000));
    }

    #[test]
    fn steps_count() {
        // Pulling 2 and then its delta takes fewer bytes than pulling 3.
        let edges = [edge(None, 2, 90), edge(Some(2), 3, 5), edge(None, 3, 100)];
        let steps = |step| cheapest(3, &[], &edges, &Weights { step, ..BYTES }).unwrap().edges;
        assert_eq!((steps(0), steps(4), steps(6)), (vec![0, 1], vec![0, 1], vec![2]));
        let path = cheapest(3, &[there(2)], &edges, &Weights { step: 6, ..BYTES }).unwrap();
        assert_eq!((path.edges, path.cost), (vec![1], 11));
    }

    #[test]
    fn what_is_missing_of_the_start_counts() {
        let edges = [edge(Some(1), 3, 10), edge(Some(2), 3, 20)];
        let partly = Present { image: 1, missing_bytes: 15 };
        let path = cheapest(3, &[partly, there(2)], &edges, &BYTES).unwrap();
        assert_eq!((path.start, path.fetch_bytes), (Some(2), 20));
        let path = cheapest(3, &[partly], &edges, &BYTES).unwrap();
        assert_eq!((path.start, path.fetch_bytes), (Some(1), 25));
    }

    #[test]
    fn the_same_cost_takes_fewer_deltas_then_the_first() {
        let edges = [edge(Some(1), 2, 5), edge(Some(2), 3, 5), edge(Some(1), 3, 10), edge(Some(1), 3, 10)];
        assert_eq!(cheapest(3, &[there(1)], &edges, &BYTES).unwrap().edges, [2]);
    }

    #[test]
    fn sums_do_not_overflow() {
        let edges = [edge(Some(1), 2, u64::MAX), edge(Some(2), 3, u64::MAX)];
        assert_eq!(cheapest(3, &[there(1)], &edges, &Weights::default()).unwrap().cost, u64::MAX);
    }

    /// The least cost to reach each image, by trying every edge as often as there are images.
    fn relaxed(present: &[Present<u8>], edges: &[Edge<u8>], weights: &Weights) -> HashMap<u8, u64> {
        let mut costs: HashMap<u8, u64> = HashMap::new();
        for there in present {
            costs.insert(there.image, there.missing_bytes * weights.fetch);
        }
        for _ in 0..12 {
            for edge in edges {
                let Some(before) = edge.source.map_or(Some(0), |source| costs.get(&source).copied()) else {
                    continue;
                };
                let cost = before + edge_cost(edge, weights);
                let known = costs.entry(edge.target).or_insert(cost);
                *known = cost.min(*known);
            }
        }
        costs
    }

    fn edges() -> impl Strategy<Value = Vec<Edge<u8>>> {
        let edge = (prop::option::weighted(0.9, 0u8..10), 0u8..10, 0u64..50, 0u64..50, 1u32..4);
        let make = |(source, target, fetch_bytes, made_bytes, apply_factor)| Edge {
            source,
            target,
            fetch_bytes,
            made_bytes,
            apply_factor,
        };
        prop::collection::vec(edge.prop_map(make), 0..40)
    }

    proptest! {
        #[test]
        fn no_path_is_cheaper(edges in edges(), images in prop::collection::btree_map(0u8..10, 0u64..20, 0..3), target in 0u8..10) {
            let present: Vec<_> =
                images.into_iter().map(|(image, missing_bytes)| Present { image, missing_bytes }).collect();
            let weights = Weights { fetch: 3, apply: 1, step: 2 };
            let best = relaxed(&present, &edges, &weights).get(&target).copied();
            let path = cheapest(target, &present, &edges, &weights);
            prop_assert_eq!(path.as_ref().map(|path| path.cost), best);
            let Some(path) = path else { return Ok(()) };
            let missing = match path.start {
                None => 0,
                Some(start) => present.iter().find(|there| there.image == start).unwrap().missing_bytes,
            };
            let mut at = path.start;
            let mut cost = missing * weights.fetch;
            for number in &path.edges {
                prop_assert_eq!(edges[*number].source, at);
                at = Some(edges[*number].target);
                cost += edge_cost(&edges[*number], &weights);
            }
            prop_assert_eq!((at, cost), (Some(target), path.cost));
        }
    }
}
