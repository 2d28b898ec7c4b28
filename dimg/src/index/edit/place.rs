//! How entries of the parent are named: by the distance from the one expected next.

use super::Place;
use crate::limits::{MAX_ENTRIES, MAX_LAYERS};
use crate::wire::{Reader, WireError, put_i64};
use std::collections::BTreeMap;

/// What was named last, in one column of places.
///
/// Expected is the layer named last (at the start of a target layer, the parent's layer of the same number), and in it
/// the entry after the last one named there.
#[derive(Debug, Default)]
pub(crate) struct PlaceCoder {
    layer: u32,
    next: BTreeMap<u32, u32>,
}

impl PlaceCoder {
    /// A target layer starts.
    pub(crate) fn start_layer(&mut self, number: u32) {
        self.layer = number;
    }

    /// Appends the first of `count` entries.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, place: Place, count: u32) {
        put_i64(out, i64::from(place.layer) - i64::from(self.layer));
        put_i64(out, i64::from(place.entry) - i64::from(self.expected(place.layer)));
        self.note(place, count);
    }

    /// The first of `count` entries.
    ///
    /// # Errors
    /// It lies where no parent has entries.
    pub(crate) fn get(&mut self, reader: &mut Reader<'_>, count: u32) -> Result<Place, WireError> {
        let before = reader.clone();
        let add = |base: u32, difference: i64, limit: usize| {
            u32::try_from(i64::from(base).checked_add(difference)?).ok().filter(|&sum| (sum as usize) < limit)
        };
        let layer = add(self.layer, reader.i64("layer of a place")?, MAX_LAYERS)
            .ok_or_else(|| before.error("layer of a place", "no image has such a layer"))?;
        let difference = reader.i64("entry of a place")?;
        let entry = add(self.expected(layer), difference, MAX_ENTRIES)
            .filter(|&entry| entry as usize + count as usize <= MAX_ENTRIES)
            .ok_or_else(|| before.error("entry of a place", "no layer has such an entry"))?;
        let place = Place { layer, entry };
        self.note(place, count);
        Ok(place)
    }

    /// The entry expected next in `layer`.
    pub(crate) fn expected(&self, layer: u32) -> u32 {
        self.next.get(&layer).copied().unwrap_or(0)
    }

    fn note(&mut self, place: Place, count: u32) {
        self.layer = place.layer;
        self.next.insert(place.layer, place.entry.saturating_add(count));
    }
}
