//! Making the map: what a first program says of where bytes went, and what the fields in them then name.
//!
//! Locations come from the program's copies, the longest first. Each field that was copied says where its target went; where most
//! fields of a target disagree with the locations, and so do those of the targets around it, an override is worth its bytes.

use super::image::{Image, Machine, Segment, UNLOADED};
use super::map::{Location, Near, Override, Shifts};
use super::relocate::value_at;
use super::scan::{Field, Form, Scan};
use super::{AddressMap, MAX_SEGMENTS};
use crate::engine::EngineError;
use crate::engine::matcher::Copied;
use crate::engine::parallel::in_order;
use crate::engine::program::{Program, StreamKind, read_number};
use crate::engine::varint;
use d4c_sys::{prefer_huge_pages, prefetch};
use std::collections::BTreeMap;

/// Votes against the locations beyond so many are not counted.
const MAX_VOTES: usize = 6 << 20;
/// An override has to put right at least so many fields.
const MIN_GAIN: i64 = 3;
/// A location has to put right at least so many fields: it costs about as many bytes as one that is wrong.
const MIN_SUPPORT: i32 = 2;
/// A unit of more than this part of the limit is counted while it is looked at, alone: what it says takes up to eight times its bytes.
const ALONE_PART: u64 = 16;
/// Votes that are fetched ahead.
const SOON: usize = 16;
/// Nothing moves further.
const MAX_SHIFT: u64 = 1 << 31;

/// The memory of [`vote`] for an old file of this length, of which `limit` bounds what is counted.
pub(super) fn memory(old_bytes: u64, limit: u64) -> u64 {
    let Room { counters, against, .. } = Room::new(old_bytes, limit);
    // At most every fourth byte starts a field.
    2 * counters as u64
        + (old_bytes / 16).min(limit / 4)
        + (old_bytes * 4).min(16 * against as u64)
        + old_bytes / 16
}

/// What is counted. A part of the result: less room may give another map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// Counts of two bytes: a power of two.
    counters: usize,
    /// Votes of 16 bytes against the locations.
    against: usize,
    /// Bits for what agreed.
    agreed: u64,
}

impl Room {
    /// A quarter of `limit` for counts, the rest for votes; another quarter of it for bits.
    fn new(old_bytes: u64, limit: u64) -> Self {
        let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let most = 1 << number(limit / 8).max(1).ilog2();
        let wanted = number((old_bytes / 8).next_power_of_two());
        Self {
            counters: wanted.min(most).clamp(1 << 12, 1 << 24),
            against: number(limit / 4 * 3 / 16).min(MAX_VOTES),
            agreed: limit * 2,
        }
    }
}

/// The map by which the fields of the old file become those of `new`, as far as `copies` tell, of bytes that stand where
/// those of the old one do. Counts in about `limit` bytes.
pub(super) fn vote(
    scan: &Scan<'_>,
    new: &Image<'_>,
    mut copies: Vec<Copied>,
    limit: u64,
    threads: usize,
) -> AddressMap {
    let old = scan.image;
    let mut map = AddressMap { locations: locations(old, new, &copies), overrides: Vec::new() };
    map.locations.truncate(MAX_SEGMENTS / 2);
    copies.sort_unstable_by_key(|copied| (copied.old, copied.new));
    let shifts = Shifts::new(&map, old.low, old.high);
    let mut ballot = Ballot::new(old, &map.locations, limit);
    let opened = opened(scan, &copies);
    let copied = |unit: usize| (&*copies, &*opened[unit]);
    let is_large = |unit: &usize| scan.unit_bytes(*unit) > limit / ALONE_PART;
    let mut next = 0;
    while next < scan.units() {
        let small = (next..scan.units()).take_while(|unit| !is_large(unit)).count();
        let observed = |number: usize| {
            let (unit, mut said) = (next + number, Said::default());
            observe(scan, unit, new, copied(unit), &shifts, &mut |spoken| said.push(spoken));
            said
        };
        in_order(threads, small, observed, |said| {
            ballot.count(&said);
            true
        });
        next += small;
        if next < scan.units() {
            observe(scan, next, new, copied(next), &shifts, &mut |spoken| ballot.hear(spoken));
            next += 1;
        }
    }
    map.locations = ballot.supported(&map.locations);
    map.overrides = ballot.overrides(&Shifts::new(&map, old.low, old.high));
    map.overrides.truncate(MAX_SEGMENTS / 2);
    map
}

/// What a program copies.
pub(super) fn copies(program: &Program) -> Result<Vec<Copied>, EngineError> {
    let mut streams = program.readers();
    let (mut old, mut new) = (0u64, 0u64);
    let mut copies = Vec::new();
    for _ in 0..program.ops {
        let add = read_number(&mut streams, StreamKind::AddLengths)?;
        let insert = read_number(&mut streams, StreamKind::InsertLengths)?;
        let seek = varint::unzigzag(read_number(&mut streams, StreamKind::Seeks)?);
        old = old.wrapping_add_signed(seek);
        let place = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        if add > 0 {
            copies.push(Copied { old: place(old), new: place(new), bytes: place(add) });
        }
        old = old.wrapping_add(add);
        new = new.wrapping_add(add).wrapping_add(insert);
    }
    Ok(copies)
}

/// Where bytes went: of several copies of the same byte the longest counts.
fn locations(old: &Image<'_>, new: &Image<'_>, copies: &[Copied]) -> Vec<Location> {
    let mut parts: Vec<(u64, u64, i64, usize)> = Vec::new();
    for copied in copies {
        let mut done = 0;
        while done < copied.bytes {
            let (from, to) = (copied.old + done, copied.new + done);
            let end = (old.run_end(from) - from).min(new.run_end(to) - to).min(copied.bytes - done);
            if end == 0 {
                break;
            }
            let address = old.address_of(from);
            let shift = new.address_of(to).wrapping_sub(address).cast_signed();
            if shift.unsigned_abs() < MAX_SHIFT {
                parts.push((address, address + end as u64, shift, copied.bytes));
            }
            done += end;
        }
    }
    if let Some(module) = &old.module {
        // Functions have no bytes there, and do not shift as the data before them do.
        parts.push((module.first(), old.high, 0, usize::MAX));
    }
    parts.sort_by_key(|&(start, _, _, bytes)| (std::cmp::Reverse(bytes), start));
    let mut taken: BTreeMap<u64, (u64, i64)> = BTreeMap::new();
    for (start, end, shift, _) in parts {
        let mut at = start;
        while at < end {
            if let Some((_, &(covered, _))) = taken.range(..=at).next_back()
                && covered > at
            {
                at = covered;
                continue;
            }
            let stop = taken.range(at..).next().map_or(end, |(&next, _)| next.min(end));
            taken.insert(at, (stop, shift));
            at = stop;
        }
    }
    let mut locations: Vec<Location> = Vec::new();
    for (start, (_, shift)) in taken {
        if locations.last().map_or(0, |last| last.shift) != shift {
            locations.push(Location { start, shift });
        }
    }
    locations
}

/// Copies of the same bytes looked at.
const MAX_ACTIVE: usize = 4;

/// What a copied field says.
#[derive(Clone, Copy, Debug)]
struct Vote {
    target: u64,
    /// By how much it moved, and by how much its location did.
    shift: i64,
    location: i64,
    /// The numbers of the locations of the target and of the base, plus one: before the first is 0. Without a base it is `NO_BASE`.
    target_in: u32,
    base_in: u32,
}

const NO_BASE: u32 = u32::MAX;

/// What a copy of a field says.
enum Spoken {
    Agreed(u64),
    Vote(Vote),
}

/// What the fields of a unit say.
#[derive(Default)]
struct Said {
    /// Targets that moved as their locations did, named from the same location: most of them.
    agreed: Vec<u64>,
    votes: Vec<Vote>,
}

impl Said {
    fn push(&mut self, spoken: Spoken) {
        match spoken {
            Spoken::Agreed(target) => self.agreed.push(target),
            Spoken::Vote(vote) => self.votes.push(vote),
        }
    }
}

/// The copies that go over the start of each unit.
fn opened(scan: &Scan<'_>, copies: &[Copied]) -> Vec<Vec<Copied>> {
    let starts: Vec<usize> = (0..scan.units()).map(|unit| scan.start(unit)).collect();
    let mut opened = vec![Vec::new(); starts.len()];
    for copied in copies {
        let first = starts.partition_point(|&start| start <= copied.old);
        let last = starts.partition_point(|&start| start < copied.old + copied.bytes);
        for open in opened.get_mut(first..last).into_iter().flatten() {
            activate(open, *copied);
        }
    }
    opened
}

fn activate(active: &mut Vec<Copied>, copied: Copied) {
    if active.len() == MAX_ACTIVE {
        active.remove(0);
    }
    active.push(copied);
}

/// What every field of a unit that is copied says. `copies` are all by their old places, and those that go over the unit's start.
fn observe(
    scan: &Scan<'_>,
    unit: usize,
    new: &Image<'_>,
    (copies, opened): (&[Copied], &[Copied]),
    shifts: &Shifts<'_>,
    heard: &mut impl FnMut(Spoken),
) {
    let old = scan.image;
    let start = scan.start(unit);
    let mut next = copies.partition_point(|copied| copied.old < start);
    let mut active = opened.to_vec();
    let (mut old_places, mut new_places) = (Places::new(old), Places::new(new));
    // Most fields tell their distance, and stand one after the other.
    let mut bases = Near::new(shifts);
    scan.unit(unit, &mut |field| {
        let end = field.offset + field.form.bytes();
        active.retain(|copied| copied.old + copied.bytes >= end);
        while let Some(copied) = copies.get(next).filter(|copied| copied.old <= field.offset) {
            if copied.old + copied.bytes >= end {
                activate(&mut active, *copied);
            }
            next += 1;
        }
        if active.is_empty() {
            return;
        }
        let base_in = field.base.map_or(NO_BASE, |base| bases.location(base));
        for copied in &active {
            let at = field.offset - copied.old + copied.new;
            let base_moved = || if base_in == NO_BASE { 0 } else { shifts.of_number(base_in) };
            if let Some(shift) = shift_of((&mut old_places, &mut new_places), field, at, copied, base_moved)
                && shift.unsigned_abs() < MAX_SHIFT
            {
                let (target, target_in) = (field.target, shifts.location(field.target));
                let location = shifts.of_number(target_in);
                if shift == location && target_in == base_in {
                    heard(Spoken::Agreed(target));
                } else {
                    heard(Spoken::Vote(Vote { target, shift, location, target_in, base_in }));
                }
            }
        }
    });
}

/// Addresses of places, most of which lie in the segment of the one before.
struct Places<'i> {
    image: &'i Image<'i>,
    segment: Segment,
}

impl<'i> Places<'i> {
    fn new(image: &'i Image<'i>) -> Self {
        Self { image, segment: Segment { address: 0, end: 0, offset: 0, bytes: 0, code: false } }
    }

    fn address_of(&mut self, offset: usize) -> u64 {
        if offset.wrapping_sub(self.segment.offset) >= self.segment.bytes {
            match self.image.segment_of(offset) {
                Some(segment) => self.segment = *segment,
                None => return self.image.address_of(offset),
            }
        }
        self.segment.address + (offset - self.segment.offset) as u64
    }
}

/// By how much the target of a field moved, given that it stands at `at` of the new file, and by how much its base did.
fn shift_of(
    (old_places, new_places): (&mut Places<'_>, &mut Places<'_>),
    field: &Field,
    at: usize,
    copied: &Copied,
    base_moved: impl FnOnce() -> i64,
) -> Option<i64> {
    let (old, new) = (old_places.image, new_places.image);
    let was = value_at(old.bytes, field.offset, field.form);
    let is = value_at(new.bytes, at, field.form);
    let own = old_places.address_of(field.offset);
    let base = match field.base {
        None => 0,
        // Its own place is known; others are as the map says.
        Some(base) if base == own => new_places.address_of(at).wrapping_sub(own).cast_signed(),
        Some(_) => base_moved(),
    };
    let difference = is.wrapping_sub(was);
    let [a, b, c, d, ..] = difference.to_le_bytes();
    let narrow = i64::from(i32::from_le_bytes([a, b, c, d]));
    let sign = |bits: u32, value: u64| (value << (64 - bits)).cast_signed() >> (64 - bits);
    Some(match field.form {
        Form::Add32 => narrow.wrapping_add(base),
        Form::Sub32 => base.wrapping_sub(narrow),
        Form::Add64 => difference.cast_signed().wrapping_add(base),
        Form::Entry32 => narrow.wrapping_mul(24).wrapping_add(base),
        Form::Word32 => narrow.wrapping_mul(4).wrapping_add(base),
        Form::Block32 => narrow.wrapping_mul(1 << 16).wrapping_add(base),
        Form::Branch26 => {
            if (was ^ is) & !0x03ff_ffff != 0 {
                return None;
            }
            (sign(26, is & 0x03ff_ffff) - sign(26, was & 0x03ff_ffff)) * 4 + base
        }
        // The page alone does not tell; the instruction that has the rest does.
        Form::Page21 => return None,
        Form::Low12 { scale, back } => {
            let back = usize::from(back);
            if (was ^ is) & !0x003f_fc00 != 0 || field.offset - copied.old < back {
                return None;
            }
            let page = value_at(new.bytes, at - back, Form::Page21);
            if page & 0x9f00_0000 != 0x9000_0000 {
                return None;
            }
            let pages = sign(21, (page >> 5 & 0x7_ffff) << 2 | page >> 29 & 3);
            let place = (new_places.address_of(at - back) >> 12).wrapping_add_signed(pages) << 12;
            place.wrapping_add((is >> 10 & 0xfff) << scale).wrapping_sub(field.target).cast_signed()
        }
        Form::Arm32(coding) => {
            if field.offset - copied.old < coding.back() {
                return None;
            }
            let base = field.base.unwrap_or(0).wrapping_add_signed(base);
            let target = coding.target(new.bytes, at, was, base)?;
            // Addresses have 32 bits.
            let [a, b, c, d, ..] = target.wrapping_sub(field.target).to_le_bytes();
            i32::from_le_bytes([a, b, c, d]).into()
        }
    })
}

/// Votes on where targets moved.
struct Ballot {
    low: u64,
    span: u64,
    /// For every so many addresses, four where there is room, whether a target among them moved as its location did.
    agreed: Vec<u64>,
    every: u64,
    /// How many fields said so, by a hash of the target.
    counts: Vec<u16>,
    /// Targets that moved otherwise, and by how much.
    against: Vec<(u64, i64)>,
    /// How many of them are counted.
    room: usize,
    /// How many fields each location puts right, less those that the one before it would; the first stands for no location.
    support: Vec<i32>,
    /// The shift of each location, 0 first.
    shifts: Vec<i64>,
}

impl Ballot {
    fn new(old: &Image<'_>, locations: &[Location], limit: u64) -> Self {
        let span = old.high - old.low;
        let bytes = old.bytes.len() as u64;
        // A file may claim more memory than any real one; then the highest addresses share a bit.
        let room = Room::new(bytes, limit);
        let mut counts = vec![0; room.counters];
        prefer_huge_pages(&mut counts);
        let far = if old.machine == Machine::Wasm { 64 } else { 8 };
        let addresses = span.min(bytes.saturating_mul(far)) + bytes;
        let every = addresses.div_ceil(room.agreed.max(1)).next_power_of_two().max(4);
        let bits = addresses / every + 2;
        Self {
            low: old.low,
            span,
            agreed: vec![0; usize::try_from(bits / 64 + 1).unwrap_or(1)],
            every,
            counts,
            against: Vec::new(),
            room: room.against,
            support: vec![0; locations.len() + 1],
            shifts: std::iter::once(0).chain(locations.iter().map(|location| location.shift)).collect(),
        }
    }

    fn bit(&self, target: u64) -> usize {
        let place = if target >= UNLOADED {
            self.span.saturating_add(target - UNLOADED)
        } else {
            target.saturating_sub(self.low)
        };
        usize::try_from(place / self.every).unwrap_or(usize::MAX).min(self.agreed.len() * 64 - 1)
    }

    fn counter(&self, target: u64) -> usize {
        let hash = target.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        usize::try_from(hash).unwrap_or(0) & (self.counts.len() - 1)
    }

    /// Has what [`Ballot::cast`] looks at of a target on its way to the cache.
    fn fetch(&self, target: u64) {
        prefetch(&self.agreed, self.bit(target) / 64);
        prefetch(&self.counts, self.counter(target));
    }

    /// Counts what a unit says.
    fn count(&mut self, said: &Said) {
        for (number, &target) in said.agreed.iter().enumerate() {
            if let Some(&soon) = said.agreed.get(number + SOON) {
                self.fetch(soon);
            }
            self.agree(target);
        }
        for (number, vote) in said.votes.iter().enumerate() {
            if let Some(soon) = said.votes.get(number + SOON) {
                self.fetch(soon.target);
            }
            self.cast(*vote);
        }
    }

    fn hear(&mut self, spoken: Spoken) {
        match spoken {
            Spoken::Agreed(target) => self.agree(target),
            Spoken::Vote(vote) => self.cast(vote),
        }
    }

    /// Counts that a target moved as its location did.
    fn agree(&mut self, target: u64) {
        let (bit, counter) = (self.bit(target), self.counter(target));
        self.agreed[bit / 64] |= 1 << (bit % 64);
        self.counts[counter] = self.counts[counter].saturating_add(1);
    }

    fn cast(&mut self, Vote { target, shift, location, target_in, base_in }: Vote) {
        let place = target_in as usize;
        if shift == location {
            // Within one location distances stay as they are, whatever its shift is.
            if target_in != base_in {
                self.support[place] += 1;
                if let Some(support) = self.support.get_mut(base_in as usize) {
                    *support += 1;
                }
            }
            self.agree(target);
        } else {
            if place > 0 && shift == self.shifts[place - 1] {
                self.support[place] -= 1;
            }
            let count = self.against.len();
            if count < self.room {
                if count == self.against.capacity() {
                    self.against.reserve_exact(count.max(1 << 10).min(self.room - count));
                }
                self.against.push((target, shift));
            }
        }
    }

    /// The locations that are worth their bytes.
    fn supported(&self, locations: &[Location]) -> Vec<Location> {
        let mut kept: Vec<Location> = Vec::new();
        for (location, &support) in locations.iter().zip(&self.support[1..]) {
            let shift = kept.last().map_or(0, |last| last.shift);
            if support >= MIN_SUPPORT && location.shift != shift {
                kept.push(*location);
            }
        }
        kept
    }

    /// Whether any target between two others, both left out, moved as its location did.
    fn agreed_between(&self, from: u64, to: u64) -> bool {
        let (first, last) = (self.bit(from) + 1, self.bit(to));
        let mut at = first;
        while at < last {
            let word = self.agreed[at / 64] >> (at % 64);
            if word != 0 {
                return at + (word.trailing_zeros() as usize) < last;
            }
            at = (at / 64 + 1) * 64;
        }
        false
    }

    /// Runs of targets that moved together, otherwise than their locations.
    fn overrides(mut self, shifts: &Shifts<'_>) -> Vec<Override> {
        self.against.sort_unstable();
        let mut found: Vec<Override> = Vec::new();
        let mut open: Option<(Override, i64)> = None;
        let close = |open: Option<(Override, i64)>, found: &mut Vec<Override>| {
            found.extend(open.filter(|(_, gain)| *gain >= MIN_GAIN).map(|(segment, _)| segment));
        };
        for votes in self.against.chunk_by(|a, b| a.0 == b.0) {
            let target = votes[0].0;
            let most = votes.chunk_by(|a, b| a.1 == b.1).max_by_key(|same| same.len());
            let (shift, count) = most.map_or((0, 0), |same| (same[0].1, same.len()));
            let agreed = i64::from(self.counts[self.counter(target)]);
            let gain = i64::try_from(count).unwrap_or(i64::MAX) - agreed;
            if gain <= 0 || shift == shifts.of_location(target) {
                close(open.take(), &mut found);
                continue;
            }
            match &mut open {
                Some((segment, sum))
                    if segment.shift == shift && !self.agreed_between(segment.end - 1, target) =>
                {
                    segment.end = target + 1;
                    *sum += gain;
                }
                _ => {
                    close(open.take(), &mut found);
                    open = Some((Override { start: target, end: target + 1, shift }, gain));
                }
            }
        }
        close(open, &mut found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_within_the_limit() {
        for old_bytes in [0, 4 << 10, 1 << 20, 96 << 20, 1 << 30, 5 << 30] {
            for limit in [32 << 10, 1 << 20, 33 << 20, 128 << 20, 512 << 20] {
                let Room { counters, against, .. } = Room::new(old_bytes, limit);
                assert!(counters.is_power_of_two(), "{old_bytes} {limit}");
                assert!(2 * counters as u64 + 16 * against as u64 <= limit, "{old_bytes} {limit}");
            }
        }
    }
}
