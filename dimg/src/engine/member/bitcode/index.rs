//! The combined summary index of a program (`.index.bc`): values in another order.
//!
//! Its values are numbered and ordered by a hash of their names, of local ones with the path of the source before them. Another version of a program
//! lies at another path, so that most hashes are others, and all values change their numbers and places. In the opened form they stand in an
//! order that does not depend on hashes of local ones, and name each other so; the order in the file follows from the hashes, which stand behind all of
//! them.

use super::stream::{Abbrev, Block, Item, Record, UNABBREV_RECORD};
use super::{Fault, Sink};
use std::collections::HashMap;
use std::rc::Rc;

/// The block of summaries.
pub(super) const SUMMARIES: u64 = 20;

/// Codes of records: a function and a variable as of a combined index, the hash of a local value's bare name, the hash of a value.
const FUNCTION: u64 = 4;
const VARIABLE: u64 = 6;
const BARE_NAME: u64 = 9;
const VALUE: u64 = 16;

/// Numbers of a record that are there in any case; the rest name values.
const FUNCTION_NUMBERS: usize = 10;
const VARIABLE_NUMBERS: usize = 5;

/// Records that are held, and numbers of them all, at most: with more they stay as they are.
const MAX_RECORDS: usize = 1 << 18;
const MAX_NUMBERS: usize = 1 << 20;

/// Numbers from here on are hashes; those below and from here on places in all the block, others within the module.
const HASHES: u64 = 1 << 32;
const PLACES: u64 = 1 << 31;

/// A record or an abbreviation that is held.
#[derive(Debug)]
enum Entry {
    Record { abbrev: u64, start: usize, end: usize },
    Abbrev(Rc<Abbrev>),
}

/// What of a block of summaries waits for its end.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: Vec<Entry>,
    numbers: Vec<u64>,
    /// Nothing is held any more.
    loose: bool,
}

/// A value and where its records stand, its summary first.
#[derive(Debug)]
struct Value {
    hash: u64,
    local: bool,
    module: u64,
    entries: std::ops::Range<usize>,
}

impl Held {
    /// Holds a record; if not, it goes its way behind those held before.
    pub(super) fn record(&mut self, record: &Record) -> bool {
        let fits = self.entries.len() < MAX_RECORDS
            && self.numbers.len() + record.numbers.len() <= MAX_NUMBERS
            && record.blob.is_empty();
        if self.loose || !fits {
            return false;
        }
        let start = self.numbers.len();
        self.numbers.extend_from_slice(&record.numbers);
        self.entries.push(Entry::Record { abbrev: record.abbrev, start, end: self.numbers.len() });
        true
    }

    /// As [`Held::record`], an abbreviation.
    pub(super) fn define(&mut self, abbrev: &Rc<Abbrev>) -> bool {
        if self.loose || self.entries.len() >= MAX_RECORDS {
            return false;
        }
        self.entries.push(Entry::Abbrev(Rc::clone(abbrev)));
        true
    }

    /// Lets go of everything as it came, and holds no more.
    pub(super) fn release(&mut self, block: &Block, sink: &mut dyn Sink) -> Result<(), Fault> {
        let mut record = Record::default();
        for entry in 0..self.entries.len() {
            self.pass(entry, block, &mut record, sink)?;
        }
        *self = Self { loose: true, ..Self::default() };
        Ok(())
    }

    /// Passes on an entry.
    fn pass(
        &self,
        entry: usize,
        block: &Block,
        record: &mut Record,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        match self.entries.get(entry) {
            Some(Entry::Record { abbrev, start, end }) => {
                record.clear(*abbrev);
                record.numbers.extend_from_slice(self.numbers.get(*start..*end).unwrap_or_default());
                sink.item(Some(block), &Item::Record, record)
            }
            Some(Entry::Abbrev(abbrev)) => sink.item(Some(block), &Item::Define(Rc::clone(abbrev)), record),
            None => Ok(()),
        }
    }

    /// The numbers of an entry, its code first; none of an abbreviation.
    fn numbers(&self, entry: usize) -> &[u64] {
        match self.entries.get(entry) {
            Some(Entry::Record { start, end, .. }) => self.numbers.get(*start..*end).unwrap_or_default(),
            _ => &[],
        }
    }

    fn numbers_mut(&mut self, entry: usize) -> &mut [u64] {
        match self.entries.get(entry) {
            Some(Entry::Record { start, end, .. }) => self.numbers.get_mut(*start..*end).unwrap_or_default(),
            _ => &mut [],
        }
    }

    /// The first entry that is a summary.
    fn first(&self) -> Option<usize> {
        let is_summary = |entry: &usize| matches!(self.numbers(*entry).first(), Some(&(FUNCTION | VARIABLE)));
        (0..self.entries.len()).find(is_summary)
    }

    /// The values from `first` on, without their hashes and modules; and where they end.
    fn values(&self, first: usize) -> (Vec<Value>, usize) {
        let mut values: Vec<Value> = Vec::new();
        let mut at = first;
        loop {
            let numbers = self.numbers(at);
            match (numbers.first(), values.last_mut()) {
                (Some(&BARE_NAME), Some(value)) if numbers.len() == 2 => {
                    value.local = true;
                    value.entries.end = at + 1;
                }
                (Some(&(FUNCTION | VARIABLE)), _) if fixed(numbers) <= numbers.len() => {
                    values.push(Value { hash: 0, local: false, module: 0, entries: at..at + 1 });
                }
                _ => return (values, at),
            }
            at += 1;
        }
    }

    /// Passes on all that a block held, values in the order of the opened form; if it did so their hashes are put into `record`.
    pub(super) fn open(
        &mut self,
        block: &Block,
        record: &mut Record,
        sink: &mut dyn Sink,
    ) -> Result<bool, Fault> {
        record.clear(0);
        let is_value = |entry: &usize| self.numbers(*entry).first() == Some(&VALUE);
        let Some(begin) = (0..self.entries.len()).find(is_value) else {
            return self.release(block, sink).map(|()| false);
        };
        let end = (begin..self.entries.len()).find(|entry| !is_value(entry)).unwrap_or(self.entries.len());
        let first = self.first().filter(|first| *first >= end);
        let found = first.and_then(|first| Some((first, self.order(begin..end, first)?)));
        let Some((first, (order, last))) = found else {
            return self.release(block, sink).map(|()| false);
        };
        // Where each value stands in the form, by its number less 1; and where its module begins.
        let mut places = vec![0u64; order.len()];
        let mut begins = Vec::with_capacity(order.len());
        for (place, (number, value)) in order.iter().enumerate() {
            if let Some(known) = places.get_mut(*number) {
                *known = place as u64;
            }
            let same = place
                .checked_sub(1)
                .and_then(|before| order.get(before))
                .is_some_and(|(_, before)| before.module == value.module);
            let begin = if same { begins.last().copied().unwrap_or(0) } else { place as u64 };
            begins.push(begin);
        }
        let mut before = 0;
        for ((_, value), own_begin) in order.iter().zip(&begins) {
            let numbers = self.numbers_mut(value.entries.start);
            let from = fixed(numbers);
            for number in numbers.get_mut(from..).unwrap_or_default() {
                // All are there: that was looked at.
                let place = at(&places, number.saturating_sub(1)).copied().unwrap_or(0);
                let Some((_, named)) = at(&order, place) else { continue };
                *number = match named.local {
                    false => named.hash,
                    true if at(&begins, place) == Some(own_begin) => place - own_begin,
                    true => PLACES + place,
                };
            }
            if let [_, number, module, ..] = numbers {
                (*number, *module) = (0, value.module - before);
                before = value.module;
            }
        }
        let values = order.iter().flat_map(|(_, value)| value.entries.clone());
        let all = (0..begin).chain(end..first).chain(values).chain(last..self.entries.len());
        for entry in all {
            self.pass(entry, block, record, sink)?;
        }
        record.clear(begin as u64);
        for local in [false, true] {
            for (_, value) in order.iter().filter(|(_, value)| value.local == local) {
                record.blob.extend_from_slice(&value.hash.to_le_bytes());
            }
        }
        Ok(true)
    }

    /// The values whose records begin at `first`, and hashes stand in `hashes`, with their numbers less 1, in the order of the opened form; and where
    /// their records end.
    fn order(&self, hashes: std::ops::Range<usize>, first: usize) -> Option<(Vec<(usize, Value)>, usize)> {
        let (mut values, last) = self.values(first);
        if values.len() != hashes.len() {
            return None;
        }
        let (mut before, count) = (HASHES - 1, values.len() as u64);
        for (at, (entry, value)) in hashes.zip(&mut values).enumerate() {
            let number = at as u64 + 1;
            let plain =
                matches!(self.entries.get(entry), Some(Entry::Record { abbrev: UNABBREV_RECORD, .. }));
            let &[_, known, hash] = self.numbers(entry) else { return None };
            let &[_, summary, module, ..] = self.numbers(value.entries.start) else { return None };
            let numbers = self.numbers(value.entries.start);
            let names = numbers.get(fixed(numbers)..).unwrap_or_default();
            let all_there = names.iter().all(|name| (1..=count).contains(name));
            if !plain || known != number || summary != number || hash <= before || !all_there {
                return None;
            }
            before = hash;
            (value.hash, value.module) = (hash, module);
        }
        let mut order: Vec<(usize, Value)> = values.into_iter().enumerate().collect();
        let key = |value: &Value| {
            let name = match value.local {
                false => value.hash,
                true => self.numbers(value.entries.start + 1).get(1).copied().unwrap_or(0),
            };
            (value.module, value.local, name)
        };
        order.sort_by_cached_key(|(_, value)| key(value));
        Some((order, last))
    }

    /// Passes on all that a block held, values in the order of their hashes, which `hashes` has; before them stand `begin` entries.
    pub(super) fn close(
        &mut self,
        block: &Block,
        begin: u64,
        hashes: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        let first = self.first().ok_or("an index without values")?;
        let begin = usize::try_from(begin).ok().filter(|begin| *begin <= first);
        let begin = begin.ok_or("hashes behind the values")?;
        let (mut values, last) = self.values(first);
        let (hashes, rest) = hashes.as_chunks::<8>();
        if hashes.len() != values.len() || !rest.is_empty() {
            return Err(Fault("an index has not as many hashes as values"));
        }
        let mut hashes = hashes.iter().map(|hash| u64::from_le_bytes(*hash));
        for local in [false, true] {
            let of_kind = values.iter_mut().filter(|value| value.local == local);
            of_kind.zip(&mut hashes).for_each(|(value, hash)| value.hash = hash);
        }
        let (mut begins, mut module) = (Vec::with_capacity(values.len()), 0u64);
        for (place, value) in values.iter_mut().enumerate() {
            let step = self.numbers(value.entries.start).get(2).copied().unwrap_or(0);
            module = module.wrapping_add(step);
            value.module = module;
            begins.push(if step == 0 { begins.last().copied().unwrap_or(0) } else { place });
        }
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by_key(|place| values.get(*place).map(|value| value.hash));
        let mut numbers = vec![0u64; values.len()];
        let mut by_hash = HashMap::with_capacity(values.len());
        for (number, place) in (1..).zip(&order) {
            if let (Some(known), Some(value)) = (numbers.get_mut(*place), values.get(*place)) {
                *known = number;
                by_hash.insert(value.hash, number);
            }
        }
        for (place, value) in values.iter().enumerate() {
            let own = numbers.get(place).copied().unwrap_or(0);
            let begin = begins.get(place).copied().unwrap_or(0) as u64;
            let record = self.numbers_mut(value.entries.start);
            let from = fixed(record);
            for number in record.get_mut(from..).unwrap_or_default() {
                let named = match *number {
                    HASHES.. => by_hash.get(number).copied(),
                    PLACES.. => at(&numbers, *number - PLACES).copied(),
                    _ => at(&numbers, begin + *number).copied(),
                };
                *number = named.ok_or("a value that is not there")?;
            }
            if let [_, number, module, ..] = record {
                (*number, *module) = (own, value.module);
            }
        }
        let mut record = Record::default();
        for entry in 0..begin {
            self.pass(entry, block, &mut record, sink)?;
        }
        let ordered = || order.iter().filter_map(|place| values.get(*place));
        for (number, value) in (1..).zip(ordered()) {
            record.clear(UNABBREV_RECORD);
            record.numbers.extend_from_slice(&[VALUE, number, value.hash]);
            sink.item(Some(block), &Item::Record, &record)?;
        }
        let rest = (begin..first).chain(ordered().flat_map(|value| value.entries.clone()));
        for entry in rest.chain(last..self.entries.len()) {
            self.pass(entry, block, &mut record, sink)?;
        }
        Ok(())
    }
}

fn at<T>(all: &[T], place: u64) -> Option<&T> {
    usize::try_from(place).ok().and_then(|place| all.get(place))
}

/// How many numbers of a summary name no values, the code among them.
fn fixed(numbers: &[u64]) -> usize {
    match numbers.first() {
        Some(&FUNCTION) => FUNCTION_NUMBERS,
        _ => VARIABLE_NUMBERS,
    }
}
