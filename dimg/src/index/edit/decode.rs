//! Columns to edits.

use super::values::{Col, SPECS, ValueReader};
use super::{Change, Edit, Edited, FIELDS, LayerEdit, PlaceCoder, Run};
use crate::index::Tail;
use crate::index::columns::Columns;
use crate::limits::{MAX_ENTRIES, MAX_TAIL_BYTES, MAX_TAIL_ZERO_BYTES};
use crate::wire::{Reader, WireError};

/// What the section META says of a layer of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerClaim {
    /// It is this layer of the parent.
    Same(u32),
    /// The columns INDEX make it and it has so many entries.
    Entries(u64),
}

impl Edit {
    /// Reads columns INDEX by themselves ([`Edit::to_bytes`]) that make those of `layers` that are not the parent's.
    ///
    /// # Errors
    /// The bytes are not what the format allows, exceed a limit, or make other numbers of entries.
    pub fn decode(bytes: &[u8], layers: &[LayerClaim]) -> Result<Self, WireError> {
        Self::from_columns(&Columns::parse(&SPECS, bytes, "columns INDEX")?, layers)
    }

    /// As [`Edit::decode`], of columns that were read.
    pub(crate) fn from_columns(columns: &Columns, layers: &[LayerClaim]) -> Result<Self, WireError> {
        let mut values = ValueReader::new(columns);
        let mut state = State { places: PlaceCoder::default(), copied: 0, next_change: None, entries: 0 };
        state.read_gap(&mut values, 0)?;
        let mut made = Vec::with_capacity(layers.len());
        for (number, layer) in (0u32..).zip(layers) {
            made.push(match *layer {
                LayerClaim::Same(parent) => LayerEdit::Same(parent),
                LayerClaim::Entries(entries) => {
                    state.places.start_layer(number);
                    values.content_places.start_layer(number);
                    LayerEdit::Edited(state.layer(&mut values, entries)?)
                }
            });
        }
        if state.next_change.is_some() {
            let why = "more entries are changed than are copied";
            return Err(values.col(Col::Gaps).error("gap before a changed entry", why));
        }
        values.end()?;
        Ok(Self { layers: made, shapes: values.shapes, new_contents: values.contents })
    }
}

struct State {
    places: PlaceCoder,
    /// Copied entries of the runs read.
    copied: u64,
    /// The next changed one among all copied entries.
    next_change: Option<u64>,
    entries: usize,
}

impl State {
    /// Reads where the next changed entry is, counted from the copied entry `from`.
    fn read_gap(&mut self, values: &mut ValueReader<'_>, from: u64) -> Result<(), WireError> {
        let gaps = values.col(Col::Gaps);
        self.next_change = match gaps.remaining() {
            0 => None,
            _ => Some(from.saturating_add(gaps.u64("gap before a changed entry")?)),
        };
        Ok(())
    }

    fn layer(&mut self, values: &mut ValueReader<'_>, entries: u64) -> Result<Edited, WireError> {
        let mut layer = Edited { tail: tail(values.col(Col::Tails))?, ..Edited::default() };
        let runs = values.col(Col::Runs).count(MAX_ENTRIES, "number of runs")?;
        let mut at = 0u32;
        for _ in 0..runs {
            let before = values.col(Col::Runs).clone();
            let word = values.col(Col::Runs).u64("run")?;
            let (count, copied) = (word >> 1, word & 1 == 1);
            if count == 0 {
                return Err(before.error("run", "it is empty"));
            }
            let count = u32::try_from(count)
                .ok()
                .filter(|&count| self.entries + count as usize <= MAX_ENTRIES)
                .ok_or_else(|| before.error("run", format!("more than {MAX_ENTRIES} entries")))?;
            self.entries += count as usize;
            if copied {
                let from = self.places.get(values.col(Col::RunPlaces), count)?;
                layer.runs.push(Run::Copied { from, count });
                self.changes(values, &mut layer, at, count)?;
            } else {
                layer.runs.push(Run::New { count });
                for _ in 0..count {
                    layer.new.push(values.entry()?);
                }
            }
            at += count;
        }
        if u64::from(at) != entries {
            let why = format!("they make {at} entries, META names {entries}");
            return Err(values.col(Col::Runs).error("runs", why));
        }
        Ok(layer)
    }

    /// The changes of a run that starts at entry `at` of its layer.
    fn changes(
        &mut self,
        values: &mut ValueReader<'_>,
        layer: &mut Edited,
        at: u32,
        count: u32,
    ) -> Result<(), WireError> {
        let end = self.copied + u64::from(count);
        while let Some(change) = self.next_change.filter(|&change| change < end) {
            let before = values.col(Col::Masks).clone();
            let mask = values.col(Col::Masks).u64("mask of changed fields")?;
            let mask = u32::try_from(mask)
                .ok()
                .filter(|&mask| mask != 0 && mask >> FIELDS == 0)
                .ok_or_else(|| before.error("mask of changed fields", format!("{mask:#x} is not known")))?;
            let offset = u32::try_from(change - self.copied)
                .map_err(|_| before.error("mask of changed fields", "its entry is not in the run"))?;
            layer.changes.push(Change { at: at + offset, values: values.values(mask)? });
            self.read_gap(values, change + 1)?;
        }
        self.copied = end;
        Ok(())
    }
}

fn tail(reader: &mut Reader<'_>) -> Result<Tail, WireError> {
    let limit = usize::try_from(MAX_TAIL_ZERO_BYTES).unwrap_or(usize::MAX);
    let zero_bytes = reader.count(limit, "zero bytes of a tail")? as u64;
    Ok(Tail { zero_bytes, rest: reader.bytes(MAX_TAIL_BYTES, "bytes of a tail")?.into() })
}
