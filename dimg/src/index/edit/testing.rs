//! Random images for property tests: few names, contents and values, so that what can coincide does.

use crate::Digest;
use crate::index::{Content, Entry, Extent, Kind, LayerIndex, Shape, Tail};
use crate::limits::MAX_TAIL_ZERO_BYTES;
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;

/// The bytes of content number `n`, as many: the beginning of every higher one.
pub(crate) fn content_bytes(n: u8) -> Vec<u8> {
    (0..n).collect()
}

/// The content number `n`.
pub(crate) fn content(n: u8) -> Content {
    let bytes = content_bytes(n);
    Content { digest: Digest::of(&bytes), size: bytes.len() as u64 }
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Regular),
        2 => Just(Kind::Directory),
        1 => Just(Kind::HardLink),
        1 => Just(Kind::Symlink),
        1 => Just(Kind::CharDevice),
        1 => Just(Kind::BlockDevice),
        1 => Just(Kind::Fifo),
        1 => (b'g'..=b'h').prop_map(Kind::Other),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let keys = vec(prop_oneof![Just("SCHILY.xattr.user.a"), Just("atime"), Just("")], 0..3);
    (kind(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), keys, vec(0u8..3, 0..3)).prop_map(
        |(kind, raw, sparse, keys, style)| Shape {
            kind,
            raw,
            sparse: sparse && kind == Kind::Regular,
            pax_keys: keys.into_iter().map(|key| key.as_bytes().into()).collect(),
            style: style.into(),
        },
    )
}

fn name() -> impl Strategy<Value = Box<[u8]>> {
    prop_oneof![
        4 => "(\\./)?(usr|etc)/[a-d]{0,2}/?".prop_map(|name| name.into_bytes().into()),
        1 => vec(any::<u8>(), 0..6).prop_map(Into::into),
    ]
}

fn small_or_any() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0u64..3, 1 => any::<u64>()]
}

fn time() -> impl Strategy<Value = (i64, u32)> {
    (prop_oneof![3 => 0i64..3, 1 => any::<i64>()], prop_oneof![3 => Just(0u32), 1 => 0..1_000_000_000u32])
}

type Rest = (u32, (u64, u64), (i64, u32), (u64, u64), u8, u64, Vec<u8>, Vec<u8>);

fn make(shape: Shape, path: Box<[u8]>, link: Box<[u8]>, rest: Rest) -> (Shape, Entry) {
    let (mode, (uid, gid), (mtime, mtime_nsec), (dev_major, dev_minor), number, bare_size, seeds, raw) = rest;
    let has_content = match shape.kind {
        Kind::Regular => true,
        Kind::Other(_) => number % 2 == 0,
        _ => false,
    };
    let content = has_content.then(|| content(number));
    let sparse = match content {
        Some(content) if shape.sparse && content.size > 2 => {
            vec![Extent { offset: 1, bytes: content.size - 2 }, Extent { offset: content.size, bytes: 0 }]
        }
        _ => Vec::new(),
    };
    let pax = shape.pax_keys.iter().zip(seeds.iter().cycle()).map(|(_, &seed)| vec![seed; 2].into());
    let entry = Entry {
        shape: 0,
        path,
        mode,
        uid,
        gid,
        uname: if uid == 0 { b"root"[..].into() } else { Box::default() },
        gname: if gid == 0 { b"root"[..].into() } else { Box::default() },
        mtime,
        mtime_nsec,
        dev_major,
        dev_minor,
        link,
        pax: pax.collect(),
        content,
        bare_size: if content.is_some() { 0 } else { bare_size },
        sparse: sparse.into(),
        raw: if shape.raw { raw.into() } else { Box::default() },
    };
    (shape, entry)
}

/// An entry and its shape.
pub(crate) fn entry() -> impl Strategy<Value = (Shape, Entry)> {
    let numbers = (small_or_any(), small_or_any());
    let rest = (
        prop_oneof![Just(0o644u32), Just(0o755), any::<u32>()],
        numbers,
        time(),
        (small_or_any(), small_or_any()),
        0u8..12,
        small_or_any(),
        vec(0u8..3, 1..4),
        vec(0u8..3, 0..4),
    );
    (shape(), name(), prop_oneof![3 => Just(Box::default()), 1 => name()], rest)
        .prop_map(|(shape, path, link, rest)| make(shape, path, link, rest))
}

/// A layer of these entries.
pub(crate) fn layer_of(entries: Vec<(Shape, Entry)>, tail: Tail) -> Arc<LayerIndex> {
    let mut layer = LayerIndex { tail, ..LayerIndex::default() };
    for (shape, entry) in entries {
        let number = layer.shapes.iter().position(|known| *known == shape).unwrap_or(layer.shapes.len());
        if number == layer.shapes.len() {
            layer.shapes.push(shape);
        }
        layer.entries.push(Entry { shape: u32::try_from(number).unwrap(), ..entry });
    }
    Arc::new(layer)
}

fn tail() -> impl Strategy<Value = Tail> {
    let rest = prop_oneof![3 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..4)];
    (small_or_any(), rest).prop_map(|(zero_bytes, rest)| Tail {
        zero_bytes: zero_bytes.min(MAX_TAIL_ZERO_BYTES),
        rest: rest.into(),
    })
}

/// The layers of an image.
pub(crate) fn image() -> impl Strategy<Value = Vec<Arc<LayerIndex>>> {
    vec((vec(entry(), 0..12), tail()).prop_map(|(entries, tail)| layer_of(entries, tail)), 0..4)
}

/// What one step of an update does to an image.
#[derive(Debug, Clone)]
enum Step {
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, Box<(Shape, Entry)>),
    Touch(prop::sample::Index, i64),
    Fill(prop::sample::Index, u8),
    Rename(prop::sample::Index, Box<[u8]>),
    Move(prop::sample::Index, prop::sample::Index),
    DropLayer(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => index().prop_map(Step::Remove),
        2 => (index(), entry()).prop_map(|(at, entry)| Step::Insert(at, Box::new(entry))),
        4 => (index(), 0i64..9).prop_map(|(at, mtime)| Step::Touch(at, mtime)),
        4 => (index(), 0u8..20).prop_map(|(at, number)| Step::Fill(at, number)),
        2 => (index(), name()).prop_map(|(at, name)| Step::Rename(at, name)),
        1 => (index(), index()).prop_map(|(from, to)| Step::Move(from, to)),
        1 => index().prop_map(Step::DropLayer),
    ]
}

fn update(image: &[Arc<LayerIndex>], steps: Vec<Step>) -> Vec<Arc<LayerIndex>> {
    let mut layers: Vec<Vec<(Shape, Entry)>> = image
        .iter()
        .map(|layer| layer.entries.iter().map(|entry| (layer.shape(entry).clone(), entry.clone())).collect())
        .collect();
    for step in steps {
        let at = |layers: &[Vec<(Shape, Entry)>], index: prop::sample::Index| {
            let all: Vec<(usize, usize)> = layers
                .iter()
                .enumerate()
                .flat_map(|(layer, entries)| (0..entries.len()).map(move |entry| (layer, entry)))
                .collect();
            (!all.is_empty()).then(|| all[index.index(all.len())])
        };
        match step {
            Step::Remove(index) => {
                if let Some((layer, entry)) = at(&layers, index) {
                    layers[layer].remove(entry);
                }
            }
            Step::Insert(index, new) => {
                if let Some((layer, entry)) = at(&layers, index) {
                    layers[layer].insert(entry, *new);
                }
            }
            Step::Touch(index, mtime) => {
                if let Some((layer, entry)) = at(&layers, index) {
                    layers[layer][entry].1.mtime = mtime;
                }
            }
            Step::Fill(index, number) => {
                if let Some((layer, entry)) = at(&layers, index) {
                    let (shape, entry) = &mut layers[layer][entry];
                    if shape.kind == Kind::Regular && !shape.sparse {
                        entry.content = Some(content(number));
                    }
                }
            }
            Step::Rename(index, name) => {
                if let Some((layer, entry)) = at(&layers, index) {
                    layers[layer][entry].1.path = name;
                }
            }
            Step::Move(from, to) => {
                if let (Some(from), Some(to)) = (at(&layers, from), at(&layers, to)) {
                    let entry = layers[from.0].remove(from.1);
                    let place = to.1.min(layers[to.0].len());
                    layers[to.0].insert(place, entry);
                }
            }
            Step::DropLayer(index) => {
                if layers.len() > 1 {
                    layers.remove(index.index(layers.len()));
                }
            }
        }
    }
    let tail = |number: usize| image.get(number).map(|layer| layer.tail.clone()).unwrap_or_default();
    layers.into_iter().enumerate().map(|(number, entries)| layer_of(entries, tail(number))).collect()
}

/// An image and what some steps make of it, some times over.
pub(crate) fn series(images: usize) -> impl Strategy<Value = Vec<Vec<Arc<LayerIndex>>>> {
    let rest = vec(prop_oneof![1 => image().prop_map(Err), 5 => vec(step(), 0..8).prop_map(Ok)], images - 1);
    (image(), rest).prop_map(|(first, rest)| {
        let mut all = vec![first];
        for next in rest {
            let last = all.last().expect("there is a first");
            all.push(next.map_or_else(|image| image, |steps| update(last, steps)));
        }
        all
    })
}
