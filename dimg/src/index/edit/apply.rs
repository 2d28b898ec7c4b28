//! Edits applied to a parent's layers.

use super::values::{Budget, describe, heap_bytes};
use super::{ContentRef, Edit, Edited, LayerEdit, Place, Run, Value};
use crate::index::{Content, Entry, IndexError, LayerIndex, Shape};
use crate::limits::{MAX_ENTRIES, MAX_INDEX_BYTES};
use std::collections::HashMap;
use std::sync::Arc;

impl Edit {
    /// The target's layers; those that are the parent's are shared with it.
    ///
    /// # Errors
    /// The edit names a layer or entry that `parent` does not have, makes an entry that cannot be, or the result
    /// exceeds a limit: it was made against another parent, or is damaged.
    pub fn apply(&self, parent: &[Arc<LayerIndex>]) -> Result<Vec<Arc<LayerIndex>>, IndexError> {
        let mut budget = Budget::default();
        let mut entries = 0usize;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (number, layer) in self.layers.iter().enumerate() {
            layers.push(match layer {
                LayerEdit::Same(same) => {
                    let layer = parent.get(*same as usize);
                    layer.cloned().ok_or_else(|| IndexError::Apply {
                        layer: number,
                        entry: 0,
                        why: format!("the parent has no layer {same}"),
                    })?
                }
                LayerEdit::Edited(edited) => {
                    entries = entries.saturating_add(edited.entries());
                    if entries > MAX_ENTRIES {
                        return Err(IndexError::Limit { what: "entries of an image", limit: MAX_ENTRIES });
                    }
                    let maker = Maker { edit: self, parent, number, budget: &mut budget };
                    Arc::new(maker.layer(edited)?)
                }
            });
        }
        Ok(layers)
    }
}

struct Maker<'a, 'b> {
    edit: &'a Edit,
    parent: &'a [Arc<LayerIndex>],
    number: usize,
    budget: &'b mut Budget,
}

/// The shapes of the layer made, and where those of the sources went.
#[derive(Default)]
struct Shapes<'a> {
    numbers: HashMap<&'a Shape, u32>,
    /// By the number of the parent's layer, and of the shape in it.
    copied: HashMap<(u32, u32), u32>,
    made: Vec<&'a Shape>,
}

impl<'a> Shapes<'a> {
    fn number(&mut self, shape: &'a Shape) -> u32 {
        *self.numbers.entry(shape).or_insert_with(|| {
            self.made.push(shape);
            // Every shape made has an entry, so there are at most MAX_ENTRIES.
            u32::try_from(self.made.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

impl<'a> Maker<'a, '_> {
    fn error(&self, entry: usize, why: impl Into<String>) -> IndexError {
        IndexError::Apply { layer: self.number, entry, why: why.into() }
    }

    fn layer(mut self, edited: &'a Edited) -> Result<LayerIndex, IndexError> {
        let mut shapes = Shapes::default();
        let mut entries: Vec<Entry> = Vec::with_capacity(edited.entries());
        let (mut new, mut changes) = (edited.new.iter(), edited.changes.iter().peekable());
        for run in &edited.runs {
            match *run {
                Run::New { count } => {
                    for _ in 0..count {
                        let at = entries.len();
                        let source = new.next().ok_or_else(|| self.error(at, "it is not there"))?;
                        let mut entry = source.entry.clone();
                        let shape = self.shape(at, entry.shape)?;
                        entry.content = self.content(at, source.content)?;
                        entries.push(self.finish(at, &mut shapes, entry, shape)?);
                    }
                }
                Run::Copied { from, count } => {
                    let (start, at) = (from.entry as usize, entries.len());
                    let layer = self.parent.get(from.layer as usize);
                    let sources = layer.and_then(|layer| layer.entries.get(start..start + count as usize));
                    let (Some(layer), Some(sources)) = (layer, sources) else {
                        let why = format!("{count} entries from {} are not there", describe(from));
                        return Err(self.error(at, why));
                    };
                    for source in sources {
                        let at = entries.len();
                        let Some(change) = changes.next_if(|change| change.at as usize == at) else {
                            let known = shapes.copied.get(&(from.layer, source.shape)).copied();
                            let shape = known.unwrap_or_else(|| shapes.number(layer.shape(source)));
                            shapes.copied.insert((from.layer, source.shape), shape);
                            entries.push(self.pay(Entry { shape, ..source.clone() })?);
                            continue;
                        };
                        let (mut entry, mut shape) = (source.clone(), layer.shape(source));
                        for value in &change.values {
                            match value {
                                Value::Content(content) => entry.content = self.content(at, *content)?,
                                Value::Shape(number) => shape = self.shape(at, *number)?,
                                other => other.set(&mut entry),
                            }
                        }
                        entries.push(self.finish(at, &mut shapes, entry, shape)?);
                    }
                }
            }
        }
        if new.next().is_some() || changes.next().is_some() {
            return Err(self.error(entries.len(), "new or changed entries are outside of the runs"));
        }
        let shapes = shapes.made.into_iter().cloned().collect();
        Ok(LayerIndex { shapes, entries, tail: edited.tail.clone() })
    }

    fn finish(
        &mut self,
        at: usize,
        shapes: &mut Shapes<'a>,
        mut entry: Entry,
        shape: &'a Shape,
    ) -> Result<Entry, IndexError> {
        entry.shape = shapes.number(shape);
        entry.check(shape).map_err(|why| self.error(at, why))?;
        self.pay(entry)
    }

    fn pay(&mut self, entry: Entry) -> Result<Entry, IndexError> {
        if self.budget.take(heap_bytes(&entry)) {
            return Ok(entry);
        }
        Err(IndexError::Limit { what: "bytes of the names and values of an image", limit: MAX_INDEX_BYTES })
    }

    fn shape(&self, at: usize, number: u32) -> Result<&'a Shape, IndexError> {
        let shape = self.edit.shapes.get(number as usize);
        shape.ok_or_else(|| self.error(at, format!("there is no shape {number}")))
    }

    fn content(&self, at: usize, content: ContentRef) -> Result<Option<Content>, IndexError> {
        match content {
            ContentRef::None => Ok(None),
            ContentRef::New(number) => {
                let content = self.edit.new_contents.get(number as usize).copied();
                content.map(Some).ok_or_else(|| self.error(at, format!("there is no new content {number}")))
            }
            ContentRef::Parent(place) => content_at(self.parent, place)
                .map(Some)
                .ok_or_else(|| self.error(at, format!("{} has no content", describe(place)))),
        }
    }
}

/// The content of a parent's entry.
pub(crate) fn content_at(parent: &[Arc<LayerIndex>], place: Place) -> Option<Content> {
    parent.get(place.layer as usize)?.entries.get(place.entry as usize)?.content
}
