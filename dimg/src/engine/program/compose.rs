//! Composing programs: A to B and B to C give A to C, without any of the contents.

use super::walk::Run;
use super::{Builder, Program, RunReader, STREAMS, StreamKind, read_number};
use crate::engine::error::EngineError;
use crate::engine::varint;

/// An operation with all places it stands for.
#[derive(Clone, Copy, Debug)]
struct Op {
    /// Where it starts in what the program makes.
    made: u64,
    /// Where it starts in the old content.
    old: u64,
    add: u64,
    insert: u64,
    /// Where its differences start among all differences of the program.
    difference: u64,
    /// Where its inserted bytes start in their stream.
    inserted: u64,
}

/// A nonzero run: where it starts among all differences, its length, and where its bytes start in their stream.
#[derive(Clone, Copy, Debug)]
struct NonzeroRun {
    start: u64,
    length: u64,
    bytes: u64,
}

/// The memory of composing a program of so many operations, and so many bytes in the stream of nonzero runs, with another, beside the
/// streams.
pub(crate) fn layout_memory(ops: u64, nonzero_run_bytes: u64) -> u64 {
    let (op, run) = (size_of::<Op>() as u64, size_of::<NonzeroRun>() as u64);
    // Vectors that grow have up to twice what they need.
    2 * ops.saturating_mul(op).saturating_add(nonzero_run_bytes.saturating_mul(run))
}

/// Steps of composing, at most, for each operation and each run of both programs: a second one that copies the same part over and over takes far
/// more, and what it makes stays short where that part joins up.
const MAX_STEPS: u64 = 64;

/// A program laid out for access at any place.
#[derive(Debug)]
struct Layout<'p> {
    ops: Vec<Op>,
    runs: Vec<NonzeroRun>,
    nonzero: &'p [u8],
    inserted: &'p [u8],
    made: u64,
}

impl<'p> Layout<'p> {
    fn of(program: &'p Program) -> Result<Self, EngineError> {
        let mut streams: [&[u8]; STREAMS] = program.readers();
        let mut ops = Vec::new();
        let (mut made, mut old, mut difference, mut inserted) = (0u64, 0u64, 0u64, 0u64);
        for number in 0..program.ops {
            let bad = || EngineError::program(number, "its lengths do not fit the program");
            let add = read_number(&mut streams, StreamKind::AddLengths)?;
            let insert = read_number(&mut streams, StreamKind::InsertLengths)?;
            let seek = varint::unzigzag(read_number(&mut streams, StreamKind::Seeks)?);
            if add == 0 && insert == 0 {
                return Err(EngineError::program(number, "it makes nothing"));
            }
            old = old.checked_add_signed(seek).ok_or_else(bad)?;
            ops.push(Op { made, old, add, insert, difference, inserted });
            made = made.checked_add(add).and_then(|made| made.checked_add(insert)).ok_or_else(bad)?;
            old = old.checked_add(add).ok_or_else(bad)?;
            difference += add;
            inserted += insert;
        }
        if made != program.out_bytes {
            return Err(EngineError::program(program.ops, "the program makes another length than it says"));
        }
        let mut reader = RunReader::default();
        let mut runs = Vec::new();
        let (mut at, mut bytes) = (0u64, 0u64);
        while at < difference {
            match reader.next(&mut streams, difference - at)? {
                Run::Zero(count) => at += count,
                Run::Nonzero(length) => {
                    runs.push(NonzeroRun { start: at, length, bytes });
                    at += length;
                    bytes += length;
                }
            }
        }
        reader.finish()?;
        let layout = Self {
            ops,
            runs,
            nonzero: program.stream(StreamKind::Nonzero),
            inserted: program.stream(StreamKind::Inserted),
            made,
        };
        for (stream, length, want) in [
            (StreamKind::Nonzero, layout.nonzero.len(), bytes),
            (StreamKind::Inserted, layout.inserted.len(), inserted),
        ] {
            if length as u64 != want {
                return Err(EngineError::Stream {
                    stream,
                    reason: "its length is not what the program uses".into(),
                });
            }
        }
        Ok(layout)
    }

    /// Operations and runs.
    fn parts(&self) -> u64 {
        (self.ops.len() + self.runs.len()) as u64
    }

    /// The pieces of the differences from `start` on: `None` for a zero run.
    fn differences(&self, start: u64, count: u64, mut each: impl FnMut(u64, Option<&'p [u8]>)) {
        let (mut at, end) = (start, start + count);
        let mut next = self.runs.partition_point(|run| run.start + run.length <= start);
        while at < end {
            let Some(run) = self.runs.get(next).filter(|run| run.start < end) else {
                each(end - at, None);
                return;
            };
            if run.start > at {
                each(run.start - at, None);
                at = run.start;
            }
            let stop = end.min(run.start + run.length);
            each(stop - at, Some(slice(self.nonzero, run.bytes + (at - run.start), stop - at)));
            at = stop;
            next += 1;
        }
    }
}

/// A part of a stream whose length was checked when it was laid out.
fn slice(stream: &[u8], start: u64, count: u64) -> &[u8] {
    let range = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(count)).ok());
    range.and_then(|(start, end)| stream.get(start..end)).unwrap_or_default()
}

/// The program that makes what `second` makes from what `first` makes, out of what `first` starts from.
///
/// # Errors
/// [`EngineError::Program`] and [`EngineError::Stream`] when a program is damaged, or `second` does not fit what `first` makes.
pub fn compose(first: &Program, second: &Program) -> Result<Program, EngineError> {
    let limit = u64::MAX;
    compose_within(first, second, limit)?.ok_or(EngineError::Limit {
        offset: 0,
        part: "program",
        value: limit,
        limit,
    })
}

/// As [`compose`], but gives up when the program gets longer than `limit` bytes, or takes as many steps beside those of its own length: one that
/// copies the same patched part many times can be far longer, or take far longer, than both together.
///
/// # Errors
/// As for [`compose`].
pub fn compose_within(first: &Program, second: &Program, limit: u64) -> Result<Option<Program>, EngineError> {
    let (first, second) = (Layout::of(first)?, Layout::of(second)?);
    let mut builder = Builder::new();
    let mut steps = limit.saturating_add(MAX_STEPS.saturating_mul(first.parts() + second.parts()));
    for (number, op) in (0u64..).zip(&second.ops) {
        if op.old.checked_add(op.add).is_none_or(|end| end > first.made) {
            return Err(EngineError::program(
                number,
                "it copies from outside of what the first program makes",
            ));
        }
        let mut at = op.old;
        second.differences(op.difference, op.add, |count, bytes| {
            if builder.raw_bytes() <= limit {
                through(&first, at, count, bytes, (limit, &mut steps), &mut builder);
            }
            at += count;
        });
        builder.insert(slice(second.inserted, op.inserted, op.insert));
        if builder.raw_bytes() > limit || steps == 0 {
            return Ok(None);
        }
    }
    Ok(Some(builder.finish()))
}

/// Adds to `builder` what makes `count` bytes from `at` on of what `first` makes, with `added` on top. It may stop early when the
/// program is over its `limit`, or no `steps` are left.
fn through(
    first: &Layout<'_>,
    mut at: u64,
    count: u64,
    added: Option<&[u8]>,
    (limit, steps): (u64, &mut u64),
    builder: &mut Builder,
) {
    let (start, end) = (at, at + count);
    let mut next = first.ops.partition_point(|op| op.made + op.add + op.insert <= at);
    // The part of what is added that belongs to these bytes.
    let part = |from: u64, count: u64| added.map(|added| slice(added, from - start, count));
    while at < end && builder.raw_bytes() <= limit && *steps > 0 {
        *steps -= 1;
        let Some(op) = first.ops.get(next) else { return };
        let middle = op.made + op.add;
        if at < middle {
            let stop = end.min(middle);
            let (mut place, mut from) = (op.old + (at - op.made), at);
            first.differences(op.difference + (at - op.made), stop - at, |count, differences| {
                let bytes = differences.map_or(0, <[u8]>::len) as u64;
                *steps = steps.saturating_sub(1 + bytes);
                match (differences, part(from, count)) {
                    (None, None) => builder.copy(place, count),
                    (Some(one), None) | (None, Some(one)) => builder.copy_add(place, one),
                    (Some(one), Some(other)) => builder.copy_add(place, &sum(one, other)),
                }
                place += count;
                from += count;
            });
            at = stop;
        }
        let stop = end.min(middle + op.insert);
        if at < stop {
            let bytes = slice(first.inserted, op.inserted + (at - middle), stop - at);
            match part(at, stop - at) {
                None => builder.insert(bytes),
                Some(added) => builder.insert(&sum(bytes, added)),
            }
            at = stop;
        }
        next += 1;
    }
}

fn sum(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one.wrapping_add(*other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::matcher::{MatchOptions, diff};
    use crate::engine::program::apply;
    use proptest::prelude::*;

    fn run(program: &Program, old: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut readers = program.readers();
        apply(&mut readers, program.ops, old, program.out_bytes, &mut out).unwrap();
        assert!(readers.iter().all(|reader| reader.is_empty()));
        out
    }

    fn edit(content: &[u8], edits: &[(u8, prop::sample::Index, usize, u8)]) -> Vec<u8> {
        let mut new = content.to_vec();
        for &(kind, at, length, value) in edits {
            let at = at.index(new.len() + 1);
            let end = (at + length).min(new.len());
            match kind {
                0 => drop(new.drain(at..end)),
                1 => drop(new.splice(at..at, (0..length).map(|i| value.wrapping_mul(i.to_le_bytes()[0])))),
                2 => new[at..end].iter_mut().step_by(3).for_each(|byte| *byte = byte.wrapping_add(value)),
                _ => new.rotate_left(at),
            }
        }
        new
    }

    fn edits() -> impl Strategy<Value = Vec<(u8, prop::sample::Index, usize, u8)>> {
        prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 0usize..400, any::<u8>()), 0..6)
    }

    proptest! {
        #[test]
        fn composed_makes_the_same(seed in 1u32..1000, length in 0usize..4000, one in edits(), two in edits(), three in edits()) {
            let a: Vec<u8> = (0..length).map(|i| (u32::try_from(i).unwrap().wrapping_mul(seed) >> 5).to_le_bytes()[0]).collect();
            let b = edit(&a, &one);
            let c = edit(&b, &two);
            let d = edit(&c, &three);
            let options = MatchOptions::default();
            let (ab, bc, cd) = (diff(&a, &b, &options), diff(&b, &c, &options), diff(&c, &d, &options));
            let ac = compose(&ab, &bc).unwrap();
            prop_assert!(run(&ac, &a) == c);
            let within = compose_within(&ab, &bc, ac.raw_bytes()).unwrap();
            prop_assert_eq!(within.as_ref(), Some(&ac));
            if ac.raw_bytes() > 100 {
                prop_assert_eq!(compose_within(&ab, &bc, ac.raw_bytes() / 2).unwrap(), None);
            }
            let left = compose(&ac, &cd).unwrap();
            let right = compose(&ab, &compose(&bc, &cd).unwrap()).unwrap();
            prop_assert!(run(&left, &a) == d);
            prop_assert_eq!(left, right, "composition is associative");
        }
    }

    #[test]
    fn gives_up_where_a_part_is_copied_over_and_over() {
        let count = 20_000;
        let mut first = Program { ops: count, out_bytes: count, ..Program::default() };
        for (kind, length) in
            [(StreamKind::AddLengths, 1), (StreamKind::InsertLengths, 0), (StreamKind::Seeks, 0)]
        {
            first.streams[kind.index()] = vec![length; 20_000];
        }
        varint::put(&mut first.streams[StreamKind::ZeroRuns.index()], count);
        let copies = |times: u64| {
            let mut copies = Builder::new();
            (0..times).for_each(|_| copies.copy(0, count));
            copies.finish()
        };
        let mut zeros = Program { ops: 1, out_bytes: count, ..Program::default() };
        varint::put(&mut zeros.streams[StreamKind::AddLengths.index()], count);
        zeros.streams[StreamKind::InsertLengths.index()].push(0);
        zeros.streams[StreamKind::Seeks.index()].push(0);
        zeros.streams[StreamKind::ZeroRuns.index()].push(0);
        varint::put(&mut zeros.streams[StreamKind::NonzeroRuns.index()], count);
        zeros.streams[StreamKind::Nonzero.index()] = vec![0; 20_000];
        // What they copy joins up: what is made of operations times operations, or times bytes, would be short.
        for first in [first, zeros] {
            let limit = 4 * (first.raw_bytes() + copies(count).raw_bytes());
            assert_eq!(compose_within(&first, &copies(count), limit).unwrap(), None);
            assert_eq!(compose_within(&first, &copies(3), limit).unwrap(), Some(copies(3)));
        }
    }

    #[test]
    fn refuses_programs_that_do_not_fit() {
        let (a, b) = (vec![1u8; 100], vec![2u8; 50]);
        let options = MatchOptions::default();
        let short = diff(&a, &b, &options);
        let long = diff(&a, &[&a[..], b"end"].concat(), &options);
        assert!(matches!(compose(&short, &long), Err(EngineError::Program { .. })));
        let mut cut = long.clone();
        cut.streams[StreamKind::Inserted.index()].pop();
        assert!(matches!(
            compose(&long, &cut),
            Err(EngineError::Program { .. } | EngineError::Stream { .. })
        ));
    }
}
