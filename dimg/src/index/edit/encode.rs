//! Edits to columns.

use super::values::{Col, ValueWriter};
use super::{ContentRef, Edit, Edited, LayerEdit, PlaceCoder, Run, Value};
use crate::Digest;
use crate::index::columns::Columns;
use crate::index::{IndexError, LayerIndex, Tail};
use crate::wire::{put_bytes, put_u64, put_usize};
use std::collections::HashMap;

impl Edit {
    /// The columns INDEX by themselves, not compressed.
    ///
    /// # Errors
    /// The edit contradicts itself; `between`, `compose` and `decode` give none that does.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IndexError> {
        Ok(self.encode()?.to_raw())
    }

    /// The columns INDEX: the made layers in order.
    ///
    /// # Errors
    /// The edit contradicts itself; `between`, `compose` and `decode` give none that does.
    pub(crate) fn encode(&self) -> Result<Columns, IndexError> {
        self.check_self()?;
        let mut writer = ValueWriter::new();
        let mut places = PlaceCoder::default();
        let mut gap = 0u64;
        for (number, layer) in (0u32..).zip(&self.layers) {
            let LayerEdit::Edited(layer) = layer else { continue };
            places.start_layer(number);
            writer.content_places.start_layer(number);
            put_layer(&mut writer, self, layer, &mut places, &mut gap);
        }
        Ok(writer.columns)
    }

    /// That numbers name what the edit has and that its parts agree: what writing relies on.
    fn check_self(&self) -> Result<(), IndexError> {
        let mut named = 0u32;
        for (number, layer) in self.layers.iter().enumerate() {
            let LayerEdit::Edited(layer) = layer else { continue };
            self.check_layer(layer, &mut named)
                .map_err(|why| IndexError::Contradiction { layer: number, why })?;
        }
        if named as usize != self.new_contents.len() {
            return Err(IndexError::Contradiction { layer: 0, why: "a new content has no user" });
        }
        Ok(())
    }

    fn check_layer(&self, layer: &Edited, named: &mut u32) -> Result<(), &'static str> {
        let mut content = |content: ContentRef| match content {
            ContentRef::New(number) if number > *named => Err("new contents are named out of order"),
            ContentRef::New(number) => {
                *named += u32::from(number == *named);
                Ok(())
            }
            ContentRef::None | ContentRef::Parent(_) => Ok(()),
        };
        let shape = |number: u32| match self.shapes.get(number as usize) {
            Some(_) => Ok(()),
            None => Err("a shape is not there"),
        };
        let (mut new, mut changes) = (layer.new.iter(), layer.changes.iter().peekable());
        let mut at = 0u32;
        for run in &layer.runs {
            let end = at.checked_add(run.count()).ok_or("there are too many entries")?;
            match *run {
                _ if run.count() == 0 => return Err("a run is empty"),
                Run::Copied { .. } => {
                    while let Some(change) = changes.next_if(|change| change.at < end) {
                        if change.at < at || change.values.is_empty() {
                            return Err("a change has no values or no copied entry");
                        }
                        if !change.values.iter().map(Value::field).is_sorted_by(|a, b| a < b) {
                            return Err("the values of a change are out of order");
                        }
                        at = change.at + 1;
                        change.values.iter().try_for_each(|value| match value {
                            Value::Content(reference) => content(*reference),
                            Value::Shape(number) => shape(*number),
                            _ => Ok(()),
                        })?;
                    }
                }
                Run::New { count } => {
                    for _ in 0..count {
                        let new = new.next().ok_or("a run has too few new entries")?;
                        content(new.content)?;
                        shape(new.entry.shape)?;
                    }
                }
            }
            at = end;
        }
        match (new.next(), changes.next()) {
            (None, None) => Ok(()),
            _ => Err("entries or changes are outside of the runs"),
        }
    }
}

fn put_tail(out: &mut Vec<u8>, tail: &Tail) {
    put_u64(out, tail.zero_bytes);
    put_bytes(out, &tail.rest);
}

fn put_layer<'a>(
    writer: &mut ValueWriter<'a>,
    edit: &'a Edit,
    layer: &'a Edited,
    places: &mut PlaceCoder,
    gap: &mut u64,
) {
    put_usize(writer.col(Col::Runs), layer.runs.len());
    put_tail(writer.col(Col::Tails), &layer.tail);
    let (mut new, mut changes) = (layer.new.iter(), layer.changes.iter().peekable());
    let mut at = 0u32;
    for run in &layer.runs {
        let end = at + run.count();
        let copied = matches!(run, Run::Copied { .. });
        put_u64(writer.col(Col::Runs), u64::from(run.count()) << 1 | u64::from(copied));
        match *run {
            Run::Copied { from, count } => {
                places.put(writer.col(Col::RunPlaces), from, count);
                while let Some(change) = changes.next_if(|change| change.at < end) {
                    put_u64(writer.col(Col::Gaps), *gap + u64::from(change.at - at));
                    let mask = change.values.iter().fold(0, |mask, value| mask | 1 << value.field());
                    put_u64(writer.col(Col::Masks), mask);
                    for value in &change.values {
                        writer.value(value, &edit.shapes, &edit.new_contents);
                    }
                    (*gap, at) = (0, change.at + 1);
                }
                *gap += u64::from(end - at);
            }
            Run::New { count } => {
                for new in new.by_ref().take(count as usize) {
                    writer.content(new.content, |number| edit.new_contents[number as usize]);
                    writer.fields(&new.entry, &edit.shapes[new.entry.shape as usize]);
                }
            }
        }
        at = end;
    }
}

/// [`layer_id`](super::layer_id), without making an edit first.
pub(super) fn canonical_id(layer: &LayerIndex) -> Digest {
    let mut writer = ValueWriter::new();
    put_usize(writer.col(Col::Runs), usize::from(!layer.entries.is_empty()));
    if !layer.entries.is_empty() {
        put_u64(writer.col(Col::Runs), (layer.entries.len() as u64) << 1);
    }
    put_tail(writer.col(Col::Tails), &layer.tail);
    let mut numbers = HashMap::new();
    for entry in &layer.entries {
        match entry.content {
            None => writer.col(Col::Contents).push(0),
            Some(content) => {
                let number = *numbers.entry(content).or_insert(writer.contents);
                writer.content(ContentRef::New(number), |_| content);
            }
        }
        writer.fields(entry, layer.shape(entry));
    }
    Digest::of(&writer.columns.to_raw())
}
