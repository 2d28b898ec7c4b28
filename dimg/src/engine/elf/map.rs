//! The address map: by how much addresses move.

use crate::engine::varint;
use std::ops::Range;

/// Segments of one map, locations and overrides together, at most.
pub const MAX_SEGMENTS: usize = if cfg!(fuzzing) { 1 << 12 } else { 1 << 20 };
/// Bytes of one map, at most: five streams of as many varints as there are segments.
pub const MAX_MAP_BYTES: usize = MAX_SEGMENTS * varint::MAX_VARINT_BYTES * 3 + 32;

/// Addresses from `start` on move by `shift`, up to the next location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) start: u64,
    pub(super) shift: i64,
}

/// Targets from `start` to before `end` move by `shift`, wherever they lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Override {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) shift: i64,
}

/// By how much the addresses of an old file move in a new one.
///
/// *Locations* say where bytes went: by that move the places of fields, and what fields name. *Overrides* are for what is named but
/// moves otherwise than the bytes near it, or has none in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    /// Ascending; before the first nothing moves.
    pub(super) locations: Vec<Location>,
    /// Ascending, not overlapping.
    pub(super) overrides: Vec<Override>,
}

/// Bytes that are not those of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A number is cut off, too large, or not in its shortest form.
    #[error("a number is cut off, too large or not in its shortest form")]
    Number,
    /// More segments than a map may have.
    #[error("it has more than {MAX_SEGMENTS} segments")]
    Segments,
    /// Segments that are empty, or do not ascend.
    #[error("its segments do not ascend")]
    Order,
}

impl AddressMap {
    /// The number of its segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.locations.len() + self.overrides.len()
    }

    /// The memory that it takes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        (self.locations.capacity() * size_of::<Location>()
            + self.overrides.capacity() * size_of::<Override>()) as u64
    }

    /// Appends its bytes (`FORMAT.md`, section 7.6).
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.locations.len() as u64);
        varint::put(out, self.overrides.len() as u64);
        let mut before = 0;
        for location in &self.locations {
            varint::put(out, location.start.wrapping_sub(before));
            before = location.start;
        }
        let mut shift = 0i64;
        for location in &self.locations {
            varint::put(out, varint::zigzag(location.shift.wrapping_sub(shift)));
            shift = location.shift;
        }
        let mut before = 0;
        for segment in &self.overrides {
            varint::put(out, segment.start.wrapping_sub(before));
            before = segment.end;
        }
        for segment in &self.overrides {
            varint::put(out, segment.end.wrapping_sub(segment.start));
        }
        let mut shift = 0i64;
        for segment in &self.overrides {
            varint::put(out, varint::zigzag(segment.shift.wrapping_sub(shift)));
            shift = segment.shift;
        }
    }

    /// Takes a map off the front of `bytes`.
    ///
    /// # Errors
    /// They are not those of a map.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, MapError> {
        let number = |bytes: &mut &[u8]| varint::take(bytes).ok_or(MapError::Number);
        let (locations, overrides) = (number(bytes)?, number(bytes)?);
        let count = |value: u64| usize::try_from(value).ok().filter(|&count| count <= MAX_SEGMENTS);
        let (Some(locations), Some(overrides)) = (count(locations), count(overrides)) else {
            return Err(MapError::Segments);
        };
        if locations + overrides > MAX_SEGMENTS {
            return Err(MapError::Segments);
        }
        // A segment has at least two bytes.
        if locations * 2 + overrides * 3 > bytes.len() {
            return Err(MapError::Number);
        }
        let mut map =
            Self { locations: Vec::with_capacity(locations), overrides: Vec::with_capacity(overrides) };
        let mut start = 0u64;
        for place in 0..locations {
            let gap = number(bytes)?;
            start = start.checked_add(gap).filter(|_| gap > 0 || place == 0).ok_or(MapError::Order)?;
            map.locations.push(Location { start, shift: 0 });
        }
        let mut shift = 0i64;
        for location in &mut map.locations {
            shift = shift.wrapping_add(varint::unzigzag(number(bytes)?));
            location.shift = shift;
        }
        let mut starts = Vec::with_capacity(overrides);
        for _ in 0..overrides {
            starts.push(number(bytes)?);
        }
        let mut end = 0u64;
        for gap in starts {
            let length = number(bytes)?;
            let start = end.checked_add(gap).ok_or(MapError::Order)?;
            end = start.checked_add(length).filter(|_| length > 0).ok_or(MapError::Order)?;
            map.overrides.push(Override { start, end, shift: 0 });
        }
        let mut shift = 0i64;
        for segment in &mut map.overrides {
            shift = shift.wrapping_add(varint::unzigzag(number(bytes)?));
            segment.shift = shift;
        }
        Ok(map)
    }
}

/// A map ready for many questions: for most addresses the answer stands in a table.
#[derive(Debug)]
pub(super) struct Shifts<'m> {
    map: &'m AddressMap,
    buckets: Buckets,
    /// For each bucket how many locations and overrides start before it.
    locations: Vec<u32>,
    overrides: Vec<u32>,
    /// For each bucket by how much its bytes move, and what names them; [`MIXED`] where that is not the same for all.
    bytes: Vec<i64>,
    targets: Vec<i64>,
}

/// Not all addresses of a bucket move alike. (Where all move by so much, they are looked for.)
const MIXED: i64 = i64::MIN;

/// Buckets of addresses, of the same length; the first one has what lies before, the last one what lies behind.
#[derive(Clone, Copy, Debug)]
struct Buckets {
    low: u64,
    log: u32,
    last: usize,
}

/// Logarithm of the most buckets; there are about eight to a start.
const BUCKETS_LOG: u32 = 16;

impl Buckets {
    fn new(starts: usize, low: u64, high: u64) -> Self {
        let span = 64 - high.saturating_sub(low).leading_zeros();
        let wanted = (64 - (starts as u64).leading_zeros() + 3).min(BUCKETS_LOG);
        let log = span.saturating_sub(wanted);
        Self { low, log, last: usize::try_from(high.saturating_sub(low) >> log).unwrap_or(0) }
    }

    #[inline]
    fn of(self, address: u64) -> usize {
        let bucket = usize::try_from(address.saturating_sub(self.low) >> self.log).unwrap_or(usize::MAX);
        bucket.min(self.last)
    }

    /// For each bucket, and one behind, how many of ascending `starts` lie before it.
    fn before(self, starts: impl Iterator<Item = u64>) -> Vec<u32> {
        let mut before = vec![0; self.last + 2];
        for start in starts {
            before[self.of(start) + 1] += 1;
        }
        let mut sum = 0;
        for before in &mut before {
            sum += *before;
            *before = sum;
        }
        before
    }
}

/// Numbers of locations of addresses most of which have the location of the one before.
#[derive(Debug)]
pub(super) struct Near<'s> {
    shifts: &'s Shifts<'s>,
    number: u32,
    addresses: Range<u64>,
}

impl<'s> Near<'s> {
    pub(super) fn new(shifts: &'s Shifts<'s>) -> Self {
        Self { shifts, number: 0, addresses: 0..0 }
    }

    /// As [`Shifts::location`].
    #[inline]
    pub(super) fn location(&mut self, address: u64) -> u32 {
        if !self.addresses.contains(&address) {
            (self.number, self.addresses) = self.shifts.location_around(address);
        }
        self.number
    }
}

impl<'m> Shifts<'m> {
    /// For addresses mostly from `low` to `high`.
    pub(super) fn new(map: &'m AddressMap, low: u64, high: u64) -> Self {
        let buckets = Buckets::new(map.locations.len().max(map.overrides.len()), low, high);
        let locations = buckets.before(map.locations.iter().map(|location| location.start));
        let overrides = buckets.before(map.overrides.iter().map(|segment| segment.start));
        let mut shifts = Self { map, buckets, locations, overrides, bytes: Vec::new(), targets: Vec::new() };
        let even = |starts: &[u32], bucket: usize| starts[bucket] == starts[bucket + 1];
        for bucket in 0..=buckets.last {
            let mut shift = MIXED;
            if even(&shifts.locations, bucket) {
                shift = shifts.of_number(shifts.locations[bucket]);
            }
            shifts.bytes.push(shift);
            let first = low.saturating_add((bucket as u64) << buckets.log);
            // What reaches into the bucket.
            let before = (shifts.overrides[bucket] as usize).checked_sub(1);
            let reaches = before.is_some_and(|place| map.overrides[place].end > first);
            shifts.targets.push(match even(&shifts.overrides, bucket) && !reaches {
                true => shift,
                false => MIXED,
            });
        }
        shifts
    }

    /// The number of the location that has the byte at `address`, plus one; 0 before the first.
    pub(super) fn location(&self, address: u64) -> u32 {
        let bucket = self.buckets.of(address);
        let (from, to) = (self.locations[bucket] as usize, self.locations[bucket + 1] as usize);
        let place = from + self.map.locations[from..to].partition_point(|location| location.start <= address);
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The location that has the byte at `address`: its number, as [`Shifts::location`] says, and the addresses that it has.
    fn location_around(&self, address: u64) -> (u32, Range<u64>) {
        let number = self.location(address);
        let start = |place: usize| self.map.locations.get(place).map(|location| location.start);
        let place = number as usize;
        let from = place.checked_sub(1).and_then(start).unwrap_or(0);
        (number, from..start(place).unwrap_or(u64::MAX))
    }

    /// By how much the bytes of a location of this number move.
    pub(super) fn of_number(&self, number: u32) -> i64 {
        let place = (number as usize).checked_sub(1).and_then(|place| self.map.locations.get(place));
        place.map_or(0, |location| location.shift)
    }

    /// By how much the byte at `address` moves.
    #[inline]
    pub(super) fn of_location(&self, address: u64) -> i64 {
        match self.bytes[self.buckets.of(address)] {
            MIXED => self.of_number(self.location(address)),
            shift => shift,
        }
    }

    /// By how much `address` moves where it is named.
    #[inline]
    pub(super) fn of_target(&self, address: u64) -> i64 {
        let bucket = self.buckets.of(address);
        match self.targets[bucket] {
            MIXED => self.target_within(bucket, address),
            shift => shift,
        }
    }

    fn target_within(&self, bucket: usize, address: u64) -> i64 {
        let (from, to) = (self.overrides[bucket] as usize, self.overrides[bucket + 1] as usize);
        let place = from + self.map.overrides[from..to].partition_point(|segment| segment.start <= address);
        match place.checked_sub(1).map(|place| &self.map.overrides[place]) {
            Some(segment) if address < segment.end => segment.shift,
            _ => self.of_location(address),
        }
    }
}
