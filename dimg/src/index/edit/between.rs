//! Finding the edit between two images' layers.
//!
//! Entries are matched by path, first in the parent's layer that most of the target's layer is found in, then in any
//! other; then by content; then by their neighbours: the entry that follows a match is a match of what follows there,
//! when neither has another. Runs of matches become copies. The result depends on the inputs alone.

use super::{Change, ContentRef, Edit, Edited, LayerEdit, NewEntry, Place, Run, Value};
use crate::index::{Content, Entry, IndexError, LayerIndex, Shape, check_layers};
use crate::limits::{MAX_CONTENTS, MAX_ENTRIES, MAX_LAYERS};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Places of one path that vote for their layers.
const MAX_VOTES: usize = 16;

impl Edit {
    /// The edit that makes `target` from `parent`.
    ///
    /// Target layers equal to a parent's are that layer. Contents that any entry of the parent has are not new.
    ///
    /// # Errors
    /// An image exceeds a limit of the format or has entries that no tar gives.
    pub fn between(parent: &[Arc<LayerIndex>], target: &[Arc<LayerIndex>]) -> Result<Self, IndexError> {
        check_layers(parent)?;
        check_layers(target)?;
        let parent = Parent::new(parent);
        let (shapes, contents) = (HashMap::new(), HashMap::new());
        let mut maker = Maker { parent: &parent, shapes, contents, edit: Self::default() };
        for (layer, number) in target.iter().zip(0u32..) {
            let edit = match parent.equal(number, layer) {
                Some(same) => LayerEdit::Same(same),
                None => LayerEdit::Edited(maker.layer(number, layer)?),
            };
            maker.edit.layers.push(edit);
        }
        Ok(maker.edit)
    }
}

/// The part of a path that different writers write alike: no `./` before it, no slashes around it.
pub(crate) fn key(path: &[u8]) -> &[u8] {
    let mut key = path;
    while let Some(rest) = key.strip_prefix(b"/").or_else(|| key.strip_prefix(b"./")) {
        key = rest;
    }
    while let Some(rest) = key.strip_suffix(b"/") {
        key = rest;
    }
    key
}

/// An index below [`MAX_ENTRIES`], as images were held against the limits first.
fn number(index: usize) -> u32 {
    const { assert!(MAX_ENTRIES <= u32::MAX as usize) };
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// The parent's layers, to be looked up.
struct Parent<'a> {
    layers: &'a [Arc<LayerIndex>],
    /// All places of each path, ascending.
    paths: HashMap<&'a [u8], Vec<Place>>,
    /// The first place of each content.
    contents: HashMap<Content, Place>,
}

impl<'a> Parent<'a> {
    fn new(layers: &'a [Arc<LayerIndex>]) -> Self {
        let (mut paths, mut contents) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        for (index, layer) in layers.iter().zip(0u32..) {
            for (found, entry) in index.entries.iter().zip(0u32..) {
                let place = Place { layer, entry };
                paths.entry(key(&found.path)).or_default().push(place);
                if let Some(content) = found.content {
                    contents.entry(content).or_insert(place);
                }
            }
        }
        Self { layers, paths, contents }
    }

    fn entry(&self, place: Place) -> Option<&'a Entry> {
        self.layers.get(place.layer as usize)?.entries.get(place.entry as usize)
    }

    /// The parent's layer that is `layer`, the one of the same number first.
    fn equal(&self, number: u32, layer: &Arc<LayerIndex>) -> Option<u32> {
        let same = |&index: &u32| {
            let other = self.layers.get(index as usize);
            other.is_some_and(|other| Arc::ptr_eq(other, layer) || other == layer)
        };
        let all = 0..self::number(self.layers.len().min(MAX_LAYERS));
        Some(number).filter(same).or_else(|| all.into_iter().find(same))
    }

    /// The layer that has most of the paths of `layer`, number `number` of the target.
    fn aligned(&self, number: u32, layer: &LayerIndex) -> u32 {
        let mut votes = vec![0u64; self.layers.len()];
        for entry in &layer.entries {
            let mut last = None;
            for place in self.paths.get(key(&entry.path)).into_iter().flatten().take(MAX_VOTES) {
                if last != Some(place.layer) {
                    votes[place.layer as usize] += 1;
                    last = Some(place.layer);
                }
            }
        }
        let best = (0u32..).zip(&votes).max_by_key(|&(at, votes)| (votes, at == number, Reverse(at)));
        best.map_or(0, |(at, _)| at)
    }
}

/// The `nth` of `places` that is in `layer`.
fn nth_in(places: &[Place], layer: u32, nth: usize) -> Option<Place> {
    let start = places.partition_point(|place| place.layer < layer);
    places.get(start + nth).copied().filter(|place| place.layer == layer)
}

struct Maker<'a> {
    parent: &'a Parent<'a>,
    shapes: HashMap<&'a Shape, u32>,
    contents: HashMap<Content, u32>,
    edit: Edit,
}

impl<'a> Maker<'a> {
    /// For each entry of the target's layer the parent's entry that it is made from.
    fn matches(&self, number: u32, layer: &LayerIndex) -> Vec<Option<Place>> {
        let parent = self.parent;
        let aligned = parent.aligned(number, layer);
        let mut seen = HashMap::<&[u8], usize>::new();
        let mut taken = HashSet::new();
        let mut matches = Vec::with_capacity(layer.entries.len());
        for entry in &layer.entries {
            let path = key(&entry.path);
            let nth = seen.entry(path).or_default();
            let place = parent.paths.get(path).and_then(|places| {
                // Of several in other layers the highest is what the image shows.
                nth_in(places, aligned, *nth).or_else(|| places.last().copied())
            });
            *nth += 1;
            taken.extend(place);
            matches.push(place);
        }
        for (at, entry) in layer.entries.iter().enumerate() {
            if matches[at].is_some() {
                continue;
            }
            let next = at.checked_sub(1).and_then(|before| matches[before]);
            let next = next.map(|place| Place { entry: place.entry.saturating_add(1), ..place });
            let next = next.filter(|place| !taken.contains(place));
            let next = next.and_then(|place| Some((place, parent.entry(place)?)));
            let moved = entry.content.filter(|content| content.size > 0);
            let moved = moved.and_then(|content| parent.contents.get(&content).copied());
            let alike = |place: Place, other| {
                let layer_of = parent.layers.get(place.layer as usize);
                layer_of.is_some_and(|layer_of| layer_of.kind(other) == layer.kind(entry))
            };
            matches[at] = match next {
                Some((place, other)) if moved.is_some() && other.content == entry.content => Some(place),
                Some((place, other)) if moved.is_none() && alike(place, other) => Some(place),
                _ => moved,
            };
            taken.extend(matches[at]);
        }
        matches
    }

    fn layer(&mut self, number: u32, layer: &'a LayerIndex) -> Result<Edited, IndexError> {
        let matches = self.matches(number, layer);
        let mut edited = Edited { tail: layer.tail.clone(), ..Edited::default() };
        for (at, (entry, place)) in layer.entries.iter().zip(matches).enumerate() {
            let shape = layer.shape(entry);
            let source = place.and_then(|place| Some((place, self.parent.entry(place)?)));
            let Some((place, source)) = source else {
                let content = self.content(entry)?;
                let entry = Entry { shape: self.shape(shape), content: None, ..entry.clone() };
                edited.new.push(NewEntry { entry, content });
                match edited.runs.last_mut() {
                    Some(Run::New { count }) => *count += 1,
                    _ => edited.runs.push(Run::New { count: 1 }),
                }
                continue;
            };
            let values = self.differences(place, source, entry, shape)?;
            if !values.is_empty() {
                edited.changes.push(Change { at: self::number(at), values });
            }
            match edited.runs.last_mut() {
                Some(Run::Copied { from, count })
                    if from.layer == place.layer && from.entry + *count == place.entry =>
                {
                    *count += 1;
                }
                _ => edited.runs.push(Run::Copied { from: place, count: 1 }),
            }
        }
        Ok(edited)
    }

    /// What `entry` has otherwise than `source`, in order of the fields' numbers.
    fn differences(
        &mut self,
        place: Place,
        source: &Entry,
        entry: &'a Entry,
        shape: &'a Shape,
    ) -> Result<Vec<Value>, IndexError> {
        let mut values = Vec::new();
        if source.content != entry.content {
            values.push(Value::Content(self.content(entry)?));
        }
        let mut note = |differs: bool, value: &dyn Fn() -> Value| {
            if differs {
                values.push(value());
            }
        };
        let shapes = &self.parent.layers[place.layer as usize].shapes;
        let other_shape = shapes.get(source.shape as usize) != Some(shape);
        let shape_number = if other_shape { self.shape(shape) } else { 0 };
        let device = (entry.dev_major, entry.dev_minor);
        note(source.mtime != entry.mtime, &|| Value::Mtime(entry.mtime));
        note(source.mtime_nsec != entry.mtime_nsec, &|| Value::MtimeNsec(entry.mtime_nsec));
        note(source.path != entry.path, &|| Value::Path(entry.path.clone()));
        note(source.mode != entry.mode, &|| Value::Mode(entry.mode));
        note(other_shape, &|| Value::Shape(shape_number));
        note(source.link != entry.link, &|| Value::Link(entry.link.clone()));
        note(source.pax != entry.pax, &|| Value::Pax(entry.pax.clone()));
        note(source.uid != entry.uid, &|| Value::Uid(entry.uid));
        note(source.gid != entry.gid, &|| Value::Gid(entry.gid));
        note(source.uname != entry.uname, &|| Value::Uname(entry.uname.clone()));
        note(source.gname != entry.gname, &|| Value::Gname(entry.gname.clone()));
        note((source.dev_major, source.dev_minor) != device, &|| Value::Device(device.0, device.1));
        note(source.bare_size != entry.bare_size, &|| Value::BareSize(entry.bare_size));
        note(source.sparse != entry.sparse, &|| Value::Sparse(entry.sparse.clone()));
        note(source.raw != entry.raw, &|| Value::Raw(entry.raw.clone()));
        Ok(values)
    }

    fn shape(&mut self, shape: &'a Shape) -> u32 {
        let shapes = &mut self.edit.shapes;
        *self.shapes.entry(shape).or_insert_with(|| {
            shapes.push(shape.clone());
            number(shapes.len() - 1)
        })
    }

    fn content(&mut self, entry: &Entry) -> Result<ContentRef, IndexError> {
        let Some(content) = entry.content else { return Ok(ContentRef::None) };
        if let Some(&place) = self.parent.contents.get(&content) {
            return Ok(ContentRef::Parent(place));
        }
        let new = &mut self.edit.new_contents;
        if new.len() >= MAX_CONTENTS && !self.contents.contains_key(&content) {
            return Err(IndexError::Limit { what: "new contents", limit: MAX_CONTENTS });
        }
        Ok(ContentRef::New(*self.contents.entry(content).or_insert_with(|| {
            new.push(content);
            number(new.len() - 1)
        })))
    }
}
