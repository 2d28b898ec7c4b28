//! How an image would be reached from what the node has, through deltas that are known: what `d4c status FILE…` explains, and what
//! `d4c load FOLDER` goes by.
//!
//! An image is known by the chain ID of its last layer: that is what a delta's parent is told by, whoever wrote the manifest. The
//! choice itself is [`dimg::path`]'s.

use std::collections::BTreeMap;
use std::fmt::Write;

use di3fs_snapshotter::import::chain_ids;
use dimg::Digest;
use dimg::format::StageCodec;
use dimg::path::{Edge, Path, Present, Weights, cheapest};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::image::Delta;
use crate::units::Bytes;

/// An image: the chain ID of its last layer, and a manifest that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) chain: Digest,
    pub(super) manifest: Digest,
}

impl Named {
    /// An image by the chain IDs of its layers. One without layers is known by zeros: it has no chain ID.
    pub(super) fn of(chain_ids: &[Digest], manifest: Digest) -> Self {
        Self { chain: chain_ids.last().copied().unwrap_or(Digest([0; 32])), manifest }
    }
}

/// A way from one image to another.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// The file as the user named it; none for pulling.
    pub(super) file: Option<String>,
    pub(super) source: Option<Named>,
    pub(super) target: Named,
    pub(super) fetch_bytes: u64,
    pub(super) made_bytes: u64,
    pub(super) apply_factor: u32,
}

/// How much longer than copying a byte it takes to move addresses, and to deflate.
const RELOCATED_FACTOR: u64 = 2;
const PACKED_FACTOR: u64 = 25;

/// The answer.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) target: Named,
    names: BTreeMap<Digest, Digest>,
    ways: Vec<Way>,
    best: Option<Path<Digest>>,
    /// The best of those that end with another way, by their cost.
    others: Vec<Path<Digest>>,
    /// Ways to the target whose source cannot be reached.
    barred: Vec<usize>,
}

/// What a unit of cost is: [`Weights`] are such that a second has so many.
const COST_PER_MS: u64 = 1_000_000;

impl Reach {
    /// Looks for the ways to `target` from the images of `present`.
    pub(super) fn find(target: Named, present: &[Named], ways: Vec<Way>) -> Self {
        let weights = Weights::default();
        let there: Vec<_> =
            present.iter().map(|image| Present { image: image.chain, missing_bytes: 0 }).collect();
        let edges: Vec<Edge<Digest>> = ways.iter().map(edge).collect();
        let best = cheapest(target.chain, &there, &edges, &weights);
        // Where a file says the same as the node, the node's manifest is the one that is known there.
        let mut names = BTreeMap::new();
        let of_ways = ways.iter().flat_map(|way| way.source.into_iter().chain([way.target]));
        for image in present.iter().copied().chain([target]).chain(of_ways) {
            names.entry(image.chain).or_insert(image.manifest);
        }
        let taken = best.as_ref().and_then(|best| best.edges.last().copied());
        let (mut others, mut barred) = (Vec::new(), Vec::new());
        for (number, way) in ways.iter().enumerate() {
            if way.target.chain != target.chain || taken == Some(number) {
                continue;
            }
            // All other ways to the target are taken away.
            let only = |edge: &usize| *edge == number || ways[*edge].target.chain != target.chain;
            let kept: Vec<usize> = (0..ways.len()).filter(only).collect();
            let edges: Vec<_> = kept.iter().map(|edge| edges[*edge]).collect();
            let there: Vec<_> = there.iter().copied().filter(|there| there.image != target.chain).collect();
            match cheapest(target.chain, &there, &edges, &weights) {
                Some(mut path) => {
                    path.edges.iter_mut().for_each(|edge| *edge = kept[*edge]);
                    others.push(path);
                }
                None => barred.push(number),
            }
        }
        others.sort_by_key(|path| path.cost);
        Self { target, names, ways, best, others, barred }
    }

    /// The ways to go one after the other, as numbers in the list given; none when nothing leads there.
    pub(super) fn steps(&self) -> Option<&[usize]> {
        self.best.as_ref().map(|best| best.edges.as_slice())
    }

    fn name(&self, image: Digest) -> Digest {
        self.names.get(&image).copied().unwrap_or(image)
    }

    /// The object of `status --json`.
    pub(super) fn json(&self) -> Value {
        let path = |path: &Path<Digest>| {
            let step = |number: &usize| {
                let way = &self.ways[*number];
                json!({
                    "file": way.file,
                    "target": self.name(way.target.chain).to_string(),
                    "fetch_bytes": way.fetch_bytes,
                    "made_bytes": way.made_bytes,
                })
            };
            json!({
                "start": path.start.map(|start| self.name(start).to_string()),
                "steps": path.edges.iter().map(step).collect::<Vec<_>>(),
                "fetch_bytes": path.fetch_bytes,
                "made_bytes": path.made_bytes,
                "estimated_ms": path.cost / COST_PER_MS,
            })
        };
        let barred = self.barred.iter().map(|number| {
            let way = &self.ways[*number];
            json!({"file": way.file, "needs": way.source.map(|source| self.name(source.chain).to_string())})
        });
        json!({
            "target": self.name(self.target.chain).to_string(),
            "path": self.best.as_ref().map(path),
            "others": self.others.iter().map(path).collect::<Vec<_>>(),
            "barred": barred.collect::<Vec<_>>(),
        })
    }

    /// The same for people.
    pub(super) fn text(&self) -> String {
        let mut text = format!("target    {}\n", self.name(self.target.chain));
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<10}{value}");
        };
        match &self.best {
            None => row("path", "none".to_owned()),
            Some(best) if best.edges.is_empty() => row("path", "it is on the node".to_owned()),
            Some(best) => {
                let start = best.start.map_or("nothing".to_owned(), |start| self.name(start).to_string());
                row("from", start);
                for number in &best.edges {
                    let way = &self.ways[*number];
                    row("by", format!("{}, {}", way.called(), costs(way.fetch_bytes, way.made_bytes)));
                }
                row("in all", whole(best));
            }
        }
        for other in &self.others {
            let by: Vec<_> = other.edges.iter().map(|number| self.ways[*number].called()).collect();
            row("or", format!("{}, {}", by.join(", "), whole(other)));
        }
        for number in &self.barred {
            let way = &self.ways[*number];
            let needs = way.source.map(|source| self.name(source.chain).to_string()).unwrap_or_default();
            row("not", format!("{}: nothing leads to {needs}", way.called()));
        }
        text
    }
}

impl Way {
    /// Whether it leads to an image with the same layers.
    pub(super) fn is_within(&self) -> bool {
        self.source.is_some_and(|source| source.chain == self.target.chain)
    }

    /// What loading the file would do.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn of(delta: &Delta) -> Result<Self, Failure> {
        let dimg = delta.file.dimg();
        let (mut made_bytes, mut work) = (0u64, 0u64);
        for (content, recipe) in dimg.contents().map_err(Failure::delta(&delta.path))? {
            let factor = recipe.stages.iter().map(|stage| match stage.codec {
                StageCodec::Elf => RELOCATED_FACTOR,
                StageCodec::Pack => PACKED_FACTOR,
                _ => 1,
            });
            made_bytes = made_bytes.saturating_add(content.size);
            work = work.saturating_add(content.size.saturating_mul(factor.max().unwrap_or(1)));
        }
        let target: Vec<Digest> = dimg.target().diff_ids().collect();
        Ok(Self {
            file: Some(delta.path.display().to_string()),
            source: dimg.parent().map(|parent| Named::of(&chain_ids(&parent.layers), parent.manifest)),
            target: Named::of(&chain_ids(&target), dimg.target().manifest),
            fetch_bytes: delta.bytes,
            made_bytes,
            apply_factor: u32::try_from(work.div_ceil(made_bytes.max(1))).unwrap_or(u32::MAX).max(1),
        })
    }

    /// What people know it by.
    pub(super) fn called(&self) -> &str {
        self.file.as_deref().unwrap_or("a pull")
    }
}

fn edge(way: &Way) -> Edge<Digest> {
    Edge {
        source: way.source.map(|source| source.chain),
        target: way.target.chain,
        fetch_bytes: way.fetch_bytes,
        made_bytes: way.made_bytes,
        apply_factor: way.apply_factor,
    }
}

fn costs(fetch_bytes: u64, made_bytes: u64) -> String {
    format!("{} to fetch, {} to make", Bytes(fetch_bytes), Bytes(made_bytes))
}

fn whole(path: &Path<Digest>) -> String {
    format!("{}, about {} ms", costs(path.fetch_bytes, path.made_bytes), path.cost / COST_PER_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(number: u8) -> Named {
        Named { chain: Digest([number; 32]), manifest: Digest([number + 100; 32]) }
    }

    fn way(file: &str, source: Option<u8>, target: u8, fetch_bytes: u64) -> Way {
        Way {
            file: (!file.is_empty()).then(|| file.to_owned()),
            source: source.map(image),
            target: image(target),
            fetch_bytes,
            made_bytes: 10,
            apply_factor: 1,
        }
    }

    fn files(path: &Value) -> Vec<&str> {
        path["steps"].as_array().unwrap().iter().map(|step| step["file"].as_str().unwrap_or("pull")).collect()
    }

    #[test]
    fn the_cheapest_is_taken_and_the_others_are_told() {
        let ways = vec![
            way("12", Some(1), 2, 100 << 20),
            way("23", Some(2), 3, 50 << 20),
            way("13", Some(1), 3, 120 << 20),
            way("", None, 3, 900 << 20),
            way("43", Some(4), 3, 1),
        ];
        let reach = Reach::find(image(3), &[image(1)], ways.clone());
        let value = reach.json();
        assert_eq!(value["target"], image(3).manifest.to_string());
        assert_eq!(value["path"]["start"], image(1).manifest.to_string());
        assert_eq!(
            (files(&value["path"]), value["path"]["fetch_bytes"].as_u64()),
            (vec!["13"], Some(120 << 20))
        );
        let others = value["others"].as_array().unwrap();
        assert_eq!(others.iter().map(files).collect::<Vec<_>>(), [vec!["12", "23"], vec!["pull"]]);
        assert_eq!(value["barred"][0]["file"], "43");
        assert_eq!(value["barred"][0]["needs"], image(4).manifest.to_string());
        let text = reach.text();
        assert!(text.contains("by        13, 120.0 MiB to fetch, 10 B to make\n"), "{text}");
        assert!(text.contains("not       43: nothing leads to "), "{text}");

        let value = Reach::find(image(3), &[image(1), image(2)], ways.clone()).json();
        assert_eq!(files(&value["path"]), ["23"]);
        let value = Reach::find(image(3), &[], ways.clone()).json();
        assert_eq!((files(&value["path"]), &value["path"]["start"]), (vec!["pull"], &Value::Null));
        let there = Reach::find(image(3), &[image(3)], ways);
        assert_eq!(there.json()["path"]["fetch_bytes"], 0);
        assert!(there.text().contains("it is on the node"));
        let none = Reach::find(image(3), &[], vec![way("13", Some(1), 3, 5)]);
        assert_eq!(none.json()["path"], Value::Null);
        assert!(none.text().contains("path      none\n"));
    }
}
