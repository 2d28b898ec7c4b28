//! Two edits, one after the other, as one: without any of the three images.
//!
//! Every entry that the second edit copies is followed to what the first made it of. Values never refer to what they
//! replace, so the later value of a field stands. Runs are as long as they can be and numbers are given by first use:
//! the result of several edits does not depend on which of them are composed first.

use super::values::{Budget, value_bytes};
use super::{Change, ContentRef, Edit, Edited, FIELDS, LayerEdit, NewEntry, Place, Run, Value};
use crate::index::{Content, Entry, IndexError, Shape};
use crate::limits::{MAX_CONTENTS, MAX_ENTRIES, MAX_INDEX_BYTES, MAX_LAYERS, MAX_SHAPES};
use std::collections::HashMap;

/// Which of two edits named a content first, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// The first edit.
    First(u32),
    /// The second.
    Second(u32),
}

/// Two edits as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// Makes what the second edit makes from what the first one starts from.
    pub edit: Edit,
    /// For each of its new contents, which edit it is from. Contents of the first that nothing uses any more are gone.
    pub named: Vec<Named>,
}

impl Edit {
    /// The edit that does what `first` and then `second` do.
    ///
    /// A layer of the target for which `kept` has a number is that layer of what `first` starts from, whatever the edits say: whoever
    /// calls knows it by the diff ID.
    ///
    /// # Errors
    /// `second` was made against something else than `first` makes, or the result exceeds a limit.
    pub fn compose(first: &Self, second: &Self, kept: &[Option<u32>]) -> Result<Composed, IndexError> {
        let composer = Composer {
            first,
            second,
            below: first.lookup()?,
            shapes: HashMap::new(),
            contents: HashMap::new(),
            out: Composed { edit: Self::default(), named: Vec::new() },
            budget: Budget::default(),
            entries: 0,
            layer: 0,
        };
        composer.run(kept)
    }

    /// The contents of the target's entries, to be looked up.
    ///
    /// # Errors
    /// A layer exceeds a limit.
    pub fn lookup(&self) -> Result<Lookup<'_>, IndexError> {
        let laid = self.layers.iter().map(Laid::of).collect::<Result<_, _>>()?;
        Ok(Lookup { edit: self, laid })
    }
}

/// What the entries have that an edit makes, without its parent.
pub struct Lookup<'a> {
    edit: &'a Edit,
    laid: Vec<Laid<'a>>,
}

impl Lookup<'_> {
    /// The content of the entry at `place`, if there is such an entry; of a layer that is the parent's, that of the
    /// parent's entry.
    pub fn content(&self, place: Place) -> Option<ContentRef> {
        match self.edit.layers.get(place.layer as usize)? {
            LayerEdit::Same(layer) => Some(ContentRef::Parent(Place { layer: *layer, ..place })),
            LayerEdit::Edited(_) => self.laid.get(place.layer as usize)?.content(place.entry),
        }
    }
}

/// A layer of the first edit, laid out for access at any entry.
struct Laid<'a> {
    edited: Option<&'a Edited>,
    /// For each run, where it starts in the layer, and how many new entries stand before it.
    starts: Vec<(u32, u32)>,
    entries: u32,
}

/// Entries of a layer that the first edit makes alike.
enum Piece<'a> {
    Copied { from: Place, count: u32, changes: &'a [Change], at: u32 },
    New(&'a [NewEntry]),
}

impl<'a> Laid<'a> {
    fn of(layer: &'a LayerEdit) -> Result<Self, IndexError> {
        match layer {
            LayerEdit::Same(_) => Ok(Self { edited: None, starts: Vec::new(), entries: 0 }),
            LayerEdit::Edited(edited) => Self::of_edited(edited),
        }
    }

    fn of_edited(edited: &'a Edited) -> Result<Self, IndexError> {
        let limit = IndexError::Limit { what: "entries of an image", limit: MAX_ENTRIES };
        let mut starts = Vec::with_capacity(edited.runs.len());
        let (mut at, mut new) = (0u32, 0u32);
        for run in &edited.runs {
            starts.push((at, new));
            let Some(end) = at.checked_add(run.count()).filter(|&end| end as usize <= MAX_ENTRIES) else {
                return Err(limit);
            };
            at = end;
            new += if matches!(run, Run::New { .. }) { run.count() } else { 0 };
        }
        Ok(Self { edited: Some(edited), starts, entries: at })
    }

    /// The run that has entry `at`.
    fn run_of(&self, at: u32) -> Option<usize> {
        self.starts.partition_point(|(start, _)| *start <= at).checked_sub(1).filter(|_| at < self.entries)
    }

    /// The part of run `number` that starts at entry `at` and has at most `count` entries.
    fn piece(&self, number: usize, at: u32, count: u32) -> Option<Piece<'a>> {
        let edited = self.edited?;
        let (start, new) = *self.starts.get(number)?;
        let skipped = at.checked_sub(start)?;
        match *edited.runs.get(number)? {
            Run::New { count: all } => {
                let first = (new + skipped) as usize;
                let count = count.min(all.checked_sub(skipped)?) as usize;
                Some(Piece::New(edited.new.get(first..first + count)?))
            }
            Run::Copied { from, count: all } => {
                let count = count.min(all.checked_sub(skipped)?);
                let bound = |at: u32| edited.changes.partition_point(|change| change.at < at);
                let changes = edited.changes.get(bound(at)..bound(at + count))?;
                let from = Place { entry: from.entry.checked_add(skipped)?, ..from };
                Some(Piece::Copied { from, count, changes, at })
            }
        }
    }

    fn content(&self, at: u32) -> Option<ContentRef> {
        match self.piece(self.run_of(at)?, at, 1)? {
            Piece::New(new) => Some(new.first()?.content),
            Piece::Copied { from, changes, .. } => {
                let values = changes.iter().flat_map(|change| &change.values);
                let mut content = values.filter_map(|value| match value {
                    Value::Content(content) => Some(*content),
                    _ => None,
                });
                Some(content.next_back().unwrap_or(ContentRef::Parent(from)))
            }
        }
    }
}

/// Which edit a value is from: its shapes and contents are numbers there.
#[derive(Clone, Copy)]
enum Of {
    First,
    Second,
}

struct Composer<'a> {
    first: &'a Edit,
    second: &'a Edit,
    below: Lookup<'a>,
    shapes: HashMap<&'a Shape, u32>,
    contents: HashMap<Content, u32>,
    out: Composed,
    budget: Budget,
    entries: usize,
    /// The target's layer being made.
    layer: usize,
}

impl<'a> Composer<'a> {
    fn error(&self, entry: usize, why: impl Into<String>) -> IndexError {
        IndexError::Apply { layer: self.layer, entry, why: why.into() }
    }

    fn run(mut self, kept: &[Option<u32>]) -> Result<Composed, IndexError> {
        let second = self.second;
        if second.layers.len() > MAX_LAYERS {
            return Err(IndexError::Limit { what: "layers of an image", limit: MAX_LAYERS });
        }
        for (number, layer) in second.layers.iter().enumerate() {
            self.layer = number;
            let made = match (kept.get(number).copied().flatten(), layer) {
                (Some(same), _) => LayerEdit::Same(same),
                (None, LayerEdit::Same(below)) => self.same(*below)?,
                (None, LayerEdit::Edited(edited)) => LayerEdit::Edited(self.edited(edited)?),
            };
            self.out.edit.layers.push(made);
        }
        Ok(self.out)
    }

    /// A layer that is the middle image's.
    fn same(&mut self, below: u32) -> Result<LayerEdit, IndexError> {
        match self.first.layers.get(below as usize) {
            None => Err(self.error(0, format!("the parent has no layer {below}"))),
            Some(LayerEdit::Same(same)) => Ok(LayerEdit::Same(*same)),
            Some(LayerEdit::Edited(edited)) => {
                let mut made = Made { tail: edited.tail.clone(), ..Made::default() };
                let count = u32::try_from(edited.entries()).unwrap_or(u32::MAX);
                self.copy(Place { layer: below, entry: 0 }, count, &mut [].iter().peekable(), &mut made)?;
                Ok(LayerEdit::Edited(made.finish()))
            }
        }
    }

    fn edited(&mut self, edited: &'a Edited) -> Result<Edited, IndexError> {
        let mut made = Made { tail: edited.tail.clone(), ..Made::default() };
        let (mut new, mut changes) = (edited.new.iter(), edited.changes.iter().peekable());
        for run in &edited.runs {
            match *run {
                Run::Copied { from, count } => self.copy(from, count, &mut changes, &mut made)?,
                Run::New { count } => {
                    for _ in 0..count {
                        let at = made.at as usize;
                        let new = new.next().ok_or_else(|| self.error(at, "it is not there"))?;
                        self.new_entry(new, Of::Second, &[], &mut made)?;
                    }
                }
            }
        }
        if new.next().is_some() || changes.next().is_some() {
            return Err(self.error(made.at as usize, "new or changed entries are outside of the runs"));
        }
        Ok(made.finish())
    }

    /// Entries that the second edit copies from the middle image, and changes.
    fn copy<'c>(
        &mut self,
        from: Place,
        count: u32,
        changes: &mut std::iter::Peekable<impl Iterator<Item = &'c Change>>,
        made: &mut Made,
    ) -> Result<(), IndexError>
    where
        'a: 'c,
    {
        let end = from.entry.checked_add(count);
        let there = match self.first.layers.get(from.layer as usize) {
            None => false,
            Some(LayerEdit::Same(_)) => end.is_some_and(|end| end as usize <= MAX_ENTRIES),
            Some(LayerEdit::Edited(_)) => {
                end.is_some_and(|end| end <= self.below.laid[from.layer as usize].entries)
            }
        };
        let (true, Some(end)) = (there, end) else {
            let why = format!(
                "{count} entries from entry {} of layer {} of the parent are not there",
                from.entry, from.layer
            );
            return Err(self.error(made.at as usize, why));
        };
        let mut entry = from.entry;
        while entry < end {
            let at = Place { entry, ..from };
            let piece = match self.first.layers.get(from.layer as usize) {
                Some(LayerEdit::Same(layer)) => {
                    let from = Place { layer: *layer, entry };
                    Some(Piece::Copied { from, count: end - entry, changes: &[], at: entry })
                }
                _ => {
                    let laid = &self.below.laid[from.layer as usize];
                    laid.run_of(entry).and_then(|number| laid.piece(number, entry, end - entry))
                }
            };
            let missing = self
                .error(made.at as usize, format!("entry {} of layer {} is not there", at.entry, at.layer));
            match piece.ok_or(missing)? {
                Piece::New(entries) => {
                    for new in entries {
                        let change = changes.next_if(|change| change.at == made.at);
                        self.new_entry(new, Of::First, change.map_or(&[], |change| &change.values), made)?;
                    }
                    // A piece has entries of a run, at most MAX_ENTRIES.
                    entry += u32::try_from(entries.len()).unwrap_or(u32::MAX);
                }
                Piece::Copied { from, count, changes: below, at } => {
                    self.copied(from, count, (below, at), changes, made)?;
                    entry += count;
                }
            }
        }
        Ok(())
    }

    /// Entries that both edits copy.
    fn copied<'c>(
        &mut self,
        from: Place,
        count: u32,
        (below, below_at): (&[Change], u32),
        changes: &mut std::iter::Peekable<impl Iterator<Item = &'c Change>>,
        made: &mut Made,
    ) -> Result<(), IndexError> {
        self.take_entries(count as usize)?;
        let start = made.at;
        let mut below = below.iter().peekable();
        loop {
            // The next entry of these that either edit changes.
            let one = below.peek().map(|change| change.at - below_at);
            let other = changes.peek().and_then(|change| change.at.checked_sub(start));
            let Some(offset) = one.into_iter().chain(other).min().filter(|&offset| offset < count) else {
                break;
            };
            let lower = below.next_if(|change| change.at - below_at == offset);
            let upper = changes.next_if(|change| change.at == start + offset);
            let place = Place { entry: from.entry.saturating_add(offset), ..from };
            let values = |change: Option<&Change>| change.map_or(Vec::new(), |change| change.values.clone());
            let values = self.values(place, start + offset, values(lower), values(upper))?;
            if !values.is_empty() {
                made.edited.changes.push(Change { at: start + offset, values });
            }
        }
        made.push(Run::Copied { from, count });
        Ok(())
    }

    /// What changes the parent's entry at `place` as `lower` and then `upper` do.
    fn values(
        &mut self,
        place: Place,
        at: u32,
        lower: Vec<Value>,
        upper: Vec<Value>,
    ) -> Result<Vec<Value>, IndexError> {
        let later = upper.iter().fold(0u32, |mask, value| mask | 1 << value.field());
        let lower = lower.into_iter().filter(|value| later >> value.field() & 1 == 0);
        let all =
            lower.map(|value| (value, Of::First)).chain(upper.into_iter().map(|value| (value, Of::Second)));
        let mut fields: [Option<(Value, Of)>; FIELDS as usize] = std::array::from_fn(|_| None);
        for (value, of) in all {
            let field = value.field() as usize;
            fields[field] = Some((value, of));
        }
        let mut values = Vec::new();
        for (value, of) in fields.into_iter().flatten() {
            let value = match value {
                Value::Content(content) => match self.content(at, content, of)? {
                    // Changed, and changed back.
                    ContentRef::Parent(parent) if parent == place => continue,
                    content => Value::Content(content),
                },
                Value::Shape(number) => Value::Shape(self.shape(at, number, of)?),
                value => value,
            };
            self.pay(value_bytes(&value))?;
            values.push(value);
        }
        Ok(values)
    }

    /// An entry that one of the edits adds, with what the second changes in it.
    fn new_entry(
        &mut self,
        new: &NewEntry,
        of: Of,
        values: &[Value],
        made: &mut Made,
    ) -> Result<(), IndexError> {
        let at = made.at;
        self.take_entries(1)?;
        let mut entry = Entry { content: None, ..new.entry.clone() };
        let (mut content, mut shape) = ((new.content, of), (new.entry.shape, of));
        for value in values {
            match value {
                Value::Content(later) => content = (*later, Of::Second),
                Value::Shape(later) => shape = (*later, Of::Second),
                other => other.set(&mut entry),
            }
        }
        self.pay(super::values::heap_bytes(&entry))?;
        entry.shape = self.shape(at, shape.0, shape.1)?;
        let content = self.content(at, content.0, content.1)?;
        made.edited.new.push(NewEntry { entry, content });
        made.push(Run::New { count: 1 });
        Ok(())
    }

    fn shape(&mut self, at: u32, number: u32, of: Of) -> Result<u32, IndexError> {
        let edit = match of {
            Of::First => self.first,
            Of::Second => self.second,
        };
        let shape = edit.shapes.get(number as usize);
        let shape = shape.ok_or_else(|| self.error(at as usize, format!("there is no shape {number}")))?;
        let shapes = &mut self.out.edit.shapes;
        if shapes.len() >= MAX_SHAPES && !self.shapes.contains_key(shape) {
            return Err(IndexError::Limit { what: "shapes of an image", limit: MAX_SHAPES });
        }
        Ok(*self.shapes.entry(shape).or_insert_with(|| {
            shapes.push(shape.clone());
            // MAX_SHAPES is far below 2^32.
            u32::try_from(shapes.len() - 1).unwrap_or(u32::MAX)
        }))
    }

    /// A content that one of the edits names, as the composed one names it.
    fn content(&mut self, at: u32, content: ContentRef, of: Of) -> Result<ContentRef, IndexError> {
        let (number, of) = match (content, of) {
            (ContentRef::None, _) => return Ok(ContentRef::None),
            (ContentRef::Parent(place), Of::First) => return Ok(ContentRef::Parent(place)),
            (ContentRef::New(number), of) => (number, of),
            (ContentRef::Parent(place), Of::Second) => match self.below.content(place) {
                Some(ContentRef::New(number)) => (number, Of::First),
                Some(ContentRef::Parent(place)) => return Ok(ContentRef::Parent(place)),
                Some(ContentRef::None) | None => {
                    let (entry, layer) = (place.entry, place.layer);
                    let why = format!("entry {entry} of layer {layer} of the parent has no content");
                    return Err(self.error(at as usize, why));
                }
            },
        };
        let (edit, named) = match of {
            Of::First => (self.first, Named::First(number)),
            Of::Second => (self.second, Named::Second(number)),
        };
        let content = edit.new_contents.get(number as usize).copied();
        let content =
            content.ok_or_else(|| self.error(at as usize, format!("there is no new content {number}")))?;
        let out = &mut self.out;
        if out.named.len() >= MAX_CONTENTS && !self.contents.contains_key(&content) {
            return Err(IndexError::Limit { what: "new contents", limit: MAX_CONTENTS });
        }
        Ok(ContentRef::New(*self.contents.entry(content).or_insert_with(|| {
            out.edit.new_contents.push(content);
            out.named.push(named);
            // MAX_CONTENTS is far below 2^32.
            u32::try_from(out.named.len() - 1).unwrap_or(u32::MAX)
        })))
    }

    fn take_entries(&mut self, count: usize) -> Result<(), IndexError> {
        self.entries = self.entries.saturating_add(count);
        if self.entries > MAX_ENTRIES {
            return Err(IndexError::Limit { what: "entries of an image", limit: MAX_ENTRIES });
        }
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result<(), IndexError> {
        if self.budget.take(bytes) {
            return Ok(());
        }
        Err(IndexError::Limit { what: "bytes of the names and values of an image", limit: MAX_INDEX_BYTES })
    }
}

/// A layer being made.
#[derive(Default)]
struct Made {
    edited: Edited,
    tail: crate::index::Tail,
    at: u32,
}

impl Made {
    fn push(&mut self, run: Run) {
        self.at += run.count();
        match (self.edited.runs.last_mut(), run) {
            (Some(Run::New { count }), Run::New { count: more }) => *count += more,
            (Some(Run::Copied { from, count }), Run::Copied { from: next, count: more })
                if from.layer == next.layer && from.entry + *count == next.entry =>
            {
                *count += more;
            }
            _ => self.edited.runs.push(run),
        }
    }

    fn finish(self) -> Edited {
        Edited { tail: self.tail, ..self.edited }
    }
}
