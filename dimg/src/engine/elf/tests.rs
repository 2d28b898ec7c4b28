//! Tests on small executables made here, and on damaged ones.

use super::image::Image;
use super::map::{Location, Override, Shifts};
use super::sample::{self, Sample};
use super::scan::{Field, Scan};
use super::*;
use crate::engine::compress::Level;
use crate::engine::matcher::{MatchOptions, diff};
use crate::engine::program::{Program, StreamKind, apply};
use proptest::prelude::*;

pub(super) fn fields(file: &[u8]) -> Vec<Field> {
    let mut found = Vec::new();
    if let Some(image) = Image::parse(file) {
        Scan::new(&image, Version::LAST, 1).run(&mut |field| found.push(*field));
    }
    found
}

/// The fields, found in slices of so many bytes on so many threads; with one thread no places are kept.
pub(super) fn fields_in(file: &[u8], slice_bytes: usize, threads: usize) -> Vec<Field> {
    let mut found = Vec::new();
    if let Some(image) = Image::parse(file) {
        let room = [0, 0, 1000, usize::MAX, usize::MAX][threads];
        let scan = Scan::sliced(&image, Version::LAST, slice_bytes, room, threads);
        scan.run(&mut |field| found.push(*field));
    }
    found
}

#[test]
fn slices_change_nothing() {
    for arm in [false, true] {
        for fixed in [false, true] {
            let mut file = Sample { arm, fixed, functions: 900, ..Sample::default() }.build();
            let whole = fields_in(&file, usize::MAX, 1);
            assert!(whole.len() > 3000, "{}", whole.len());
            for (slice_bytes, threads) in [(1, 1), (7, 2), (48, 3), (1000, 2), (1 << 20, 4)] {
                assert!(fields_in(&file, slice_bytes, threads) == whole, "{arm} {fixed} {slice_bytes}");
            }
            // Code that is none is decoded from other places at first.
            let mut seed = 7u64;
            for byte in file.iter_mut().skip(0x1_0000) {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *byte ^= u8::try_from(seed >> 56).unwrap() & u8::try_from(seed >> 48 & 0xff).unwrap();
            }
            let whole = fields_in(&file, usize::MAX, 1);
            for (slice_bytes, threads) in [(1, 1), (13, 2), (500, 3), (4096, 1)] {
                assert!(
                    fields_in(&file, slice_bytes, threads) == whole,
                    "{arm} {fixed} {slice_bytes}, damaged"
                );
            }
        }
    }
}

#[test]
fn slices_of_an_archive_change_nothing() {
    let file = sample::archive(500, 7);
    let whole = fields_in(&file, usize::MAX, 1);
    assert!(whole.len() > 1900, "{}", whole.len());
    for (slice_bytes, threads) in [(1, 1), (13, 2), (1000, 3), (1 << 20, 4)] {
        assert!(fields_in(&file, slice_bytes, threads) == whole, "{slice_bytes}");
    }
}

/// A unit that says much is counted while it is looked at, where there is little room.
#[test]
fn what_is_counted_alone_counts_the_same() {
    let old = Sample { functions: 3000, ..Sample::default() }.build();
    let new = Sample { functions: 3000, longer: 37, ..Sample::default() }.build();
    let (before, after) = (Image::parse(&old).unwrap(), Image::parse(&new).unwrap());
    let scan = Scan::new(&before, Version::LAST, 2);
    let program = diff(&old, &new, &MatchOptions::default());
    let voted = |limit| vote::vote(&scan, &after, vote::copies(&program).unwrap(), limit, 2);
    let little = 512 << 10;
    assert!((0..scan.units()).any(|unit| scan.unit_bytes(unit) > little / 16));
    let map = voted(64 << 20);
    assert!(map.segments() > 0 && voted(little) == map);
}

#[test]
fn a_patch_is_the_same_for_any_number_of_threads() {
    let old = Sample { functions: 900, ..Sample::default() }.build();
    let new = Sample { functions: 900, longer: 37, ..Sample::default() }.build();
    let made = |threads, index_bytes| {
        let options = MatchOptions { threads, index_bytes, ..MatchOptions::default() };
        let seen = look(&old, &new, &options).unwrap();
        let relocated = derive(&old, &new, &seen, 2, &options, &|| tempfile::tempfile()).unwrap().unwrap();
        let quick = MatchOptions { level: Level::Fast, ..options };
        let quick = derive_quick(&old, &new, &quick, &tempfile::tempfile).unwrap().unwrap();
        (relocated.map, relocated.program, quick.map, quick.program)
    };
    for index_bytes in [64 << 10, 512 << 20] {
        let one = made(1, index_bytes);
        assert!(one == made(2, index_bytes) && one == made(5, index_bytes));
    }
}

#[test]
fn the_default_level_is_as_good_as_the_fast_one() {
    for arm in [false, true] {
        let sample = Sample { arm, functions: 900, ..Sample::default() };
        let (old, new) = (sample.build(), Sample { longer: 37, ..sample }.build());
        let (_, relocated) = derived(&old, &new);
        let quick = derived_quickly(&old, &new).unwrap();
        assert!(relocated.program.raw_bytes() <= quick.program.raw_bytes(), "arm {arm}");
    }
}

pub(super) fn moved(file: &[u8], map: &AddressMap) -> Vec<u8> {
    let mut out = Vec::new();
    relocate(file, map, Version::LAST, &mut out).unwrap();
    out
}

pub(super) fn derived(old: &[u8], new: &[u8]) -> (Program, Relocated) {
    let options = MatchOptions::default();
    let plain = diff(old, new, &options);
    let scratch = || tempfile::tempfile();
    let seen = look(old, new, &options).unwrap();
    let relocated = derive(old, new, &seen, 2, &options, &scratch).unwrap().unwrap();
    let mut made = Vec::new();
    let base = moved(old, &relocated.map);
    let program = &relocated.program;
    apply(&mut program.readers(), program.ops, &base, program.out_bytes, &mut made).unwrap();
    assert!(made == new);
    (plain, relocated)
}

pub(super) fn nonzero(program: &Program) -> usize {
    program.stream(StreamKind::Nonzero).len()
}

#[test]
fn a_rebuild_leaves_next_to_nothing() {
    for (arm, fixed, sections) in [
        (false, false, true),
        (false, false, false),
        (false, true, true),
        (false, true, false),
        (true, false, true),
        (true, false, false),
    ] {
        let old = Sample { arm, fixed, sections, ..Sample::default() };
        let new = Sample { longer: 37, ..old };
        let (plain, relocated) = derived(&old.build(), &new.build());
        let (before, after) = (nonzero(&plain), nonzero(&relocated.program));
        assert!(before > 1500 && after * 6 < before, "{old:?}: {before} differences, then {after}");
        assert!(relocated.map.segments() < 60, "{old:?}: {} segments", relocated.map.segments());
        let quick = derived_quickly(&old.build(), &new.build()).map(|quick| nonzero(&quick.program));
        assert!(
            quick.is_some_and(|after| after * 4 < before),
            "{old:?}: {before} differences, then {quick:?}"
        );
    }
}

#[test]
fn classes_that_grew_leave_next_to_nothing() {
    let (old, new) = (sample::archive(900, usize::MAX), sample::archive(900, 90));
    assert!(fields(&old).len() > 3500);
    let (plain, relocated) = derived(&old, &new);
    let (before, after) = (nonzero(&plain), nonzero(&relocated.program));
    assert!(before > 3000 && after * 6 < before, "{before} differences, then {after}");
    assert!(relocated.map.segments() < 30, "{} segments", relocated.map.segments());
    let quick = derived_quickly(&old, &new).map(|quick| nonzero(&quick.program));
    assert!(quick.is_some_and(|after| after * 4 < before), "{before} differences, then {quick:?}");
}

#[test]
fn earlier_versions_leave_archives_as_they_are() {
    let file = sample::archive(100, 7);
    let map = AddressMap { locations: vec![Location { start: 0, shift: 16 }], overrides: vec![] };
    for version in [Version::One, Version::Two] {
        let mut out = Vec::new();
        relocate(&file, &map, version, &mut out).unwrap();
        assert!(out == file);
    }
    assert!(moved(&file, &map) != file);
}

#[test]
fn nothing_moves_by_an_empty_map() {
    for file in [false, true]
        .map(|arm| Sample { arm, ..Sample::default() }.build())
        .into_iter()
        .chain([sample::archive(600, 9)])
    {
        assert!(fields(&file).len() > 2000);
        assert!(moved(&file, &AddressMap::default()) == file);
    }
}

#[test]
fn other_files_are_left_as_they_are() {
    let map = AddressMap { locations: vec![Location { start: 0, shift: 16 }], overrides: vec![] };
    for file in [&b""[..], b"\x7fELF", &[7; 5000]] {
        assert!(Image::parse(file).is_none());
        assert_eq!(moved(file, &map), file);
        assert!(!fits(file, file));
    }
}

#[test]
fn shifts_are_found() {
    let location = |start, shift| Location { start, shift };
    let map = AddressMap {
        locations: vec![location(10, 1), location(20, 2), location(1 << 50, 3)],
        overrides: vec![Override { start: 5, end: 6, shift: 7 }, Override { start: 25, end: 30, shift: 8 }],
    };
    for (low, high) in [(0, 100), (15, 16), (0, u64::MAX), (1 << 40, 1 << 41)] {
        let shifts = Shifts::new(&map, low, high);
        let at = |address| (shifts.of_location(address), shifts.of_target(address));
        let wanted = [
            (0, (0, 0)),
            (5, (0, 7)),
            (6, (0, 0)),
            (10, (1, 1)),
            (19, (1, 1)),
            (20, (2, 2)),
            (25, (2, 8)),
            (29, (2, 8)),
            (30, (2, 2)),
            ((1 << 50) - 1, (2, 2)),
            (1 << 50, (3, 3)),
            (u64::MAX, (3, 3)),
        ];
        for (address, shift) in wanted {
            assert_eq!(at(address), shift, "{address} from {low} to {high}");
        }
    }
}

pub(super) fn map() -> impl Strategy<Value = AddressMap> {
    let location = (1u64..1 << 20, any::<i32>());
    let segment = (0u64..1 << 16, 1u64..1 << 12, any::<i64>());
    (prop::collection::vec(location, 0..40), prop::collection::vec(segment, 0..40)).prop_map(
        |(locations, overrides)| {
            let (mut at, mut end) = (0, 0);
            AddressMap {
                locations: locations
                    .into_iter()
                    .map(|(gap, shift)| {
                        at += gap;
                        Location { start: at, shift: shift.into() }
                    })
                    .collect(),
                overrides: overrides
                    .into_iter()
                    .map(|(gap, length, shift)| {
                        let start = end + gap;
                        end = start + length;
                        Override { start, end, shift }
                    })
                    .collect(),
            }
        },
    )
}

proptest! {
    #[test]
    fn shifts_are_those_of_the_segments(
        map in map(),
        (low, high) in (0u64..1 << 18, 0u64..1 << 18),
        addresses in prop::collection::vec(0u64..1 << 22, 200),
    ) {
        let shifts = Shifts::new(&map, low, low.max(high));
        for address in addresses {
            let location = map.locations.iter().rev().find(|location| location.start <= address);
            let moved = location.map_or(0, |location| location.shift);
            let segment = map.overrides.iter().find(|part| part.start <= address && address < part.end);
            prop_assert_eq!(shifts.of_location(address), moved);
            prop_assert_eq!(shifts.of_target(address), segment.map_or(moved, |segment| segment.shift));
        }
    }
}

proptest! {
    #[test]
    fn maps_come_back(map in map()) {
        let mut bytes = Vec::new();
        map.encode(&mut bytes);
        bytes.push(9);
        let mut rest = &bytes[..];
        prop_assert_eq!(AddressMap::decode(&mut rest).unwrap(), map);
        prop_assert_eq!(rest, &[9]);
    }

    #[test]
    fn damaged_maps_are_refused_or_maps(map in map(), at in any::<prop::sample::Index>(), value: u8) {
        let mut bytes = Vec::new();
        map.encode(&mut bytes);
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(map) = AddressMap::decode(&mut &bytes[..]) {
            prop_assert!(map.locations.windows(2).all(|pair| pair[0].start < pair[1].start));
            prop_assert!(map.overrides.windows(2).all(|pair| pair[0].end <= pair[1].start));
            prop_assert!(map.overrides.iter().all(|segment| segment.start < segment.end));
        }
        let _ = AddressMap::decode(&mut &bytes[..at]);
    }

    #[test]
    fn fields_of_damaged_archives_are_within_them(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..12),
        headers in prop::collection::vec((0usize..0x80, any::<u8>()), 0..4),
        kept in any::<prop::sample::Index>(),
        cut: bool,
        map in map(),
    ) {
        let mut file = sample::archive(120, 7);
        for (at, value) in damage {
            let at = at.index(file.len() - 8);
            file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        for (at, value) in headers {
            file[at] = value;
        }
        if cut {
            file.truncate(kept.index(file.len()));
        }
        let mut end = 0;
        for field in fields(&file) {
            prop_assert!(field.offset >= end && field.offset + field.form.bytes() <= file.len());
            end = field.offset + field.form.bytes();
        }
        prop_assert_eq!(moved(&file, &map).len(), file.len());
        let other = sample::archive(120, 11);
        if fits(&file, &other) {
            derived_or_not(&file, &other);
            derived_or_not(&other, &file);
        }
    }

    #[test]
    fn fields_of_damaged_files_are_within_them(
        arm: bool,
        fixed: bool,
        sections: bool,
        damage in damage(0x200, 64),
        map in map(),
    ) {
        let sample = Sample { arm, fixed, sections, functions: 40, ..Sample::default() };
        let file = damage.done_to(sample.build(), sections);
        stays_within(&file, &map)?;
        // A vote on it is no worse.
        let other = Sample { longer: 7, ..sample }.build();
        if fits(&file, &other) {
            derived_or_not(&file, &other);
            derived_or_not(&other, &file);
        }
    }
}

/// What is done to a file.
#[derive(Debug)]
pub(super) struct Damage {
    words: Vec<(prop::sample::Index, u64, usize)>,
    headers: Vec<(usize, u8)>,
    kept: prop::sample::Index,
    cut: bool,
    section_bytes: usize,
}

/// Of a file whose headers are in the first `head` bytes, those of sections of so many.
pub(super) fn damage(head: usize, section_bytes: usize) -> impl Strategy<Value = Damage> {
    let words = prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0usize..9), 1..12);
    let headers = prop::collection::vec((0..head, any::<u8>()), 0..4);
    (words, headers, any::<prop::sample::Index>(), any::<bool>())
        .prop_map(move |(words, headers, kept, cut)| Damage { words, headers, kept, cut, section_bytes })
}

impl Damage {
    pub(super) fn done_to(self, mut file: Vec<u8>, sections: bool) -> Vec<u8> {
        for (at, value, count) in self.words {
            let at = at.index(file.len() - 8);
            file[at..at + count.min(8)].copy_from_slice(&value.to_le_bytes()[..count.min(8)]);
        }
        for (at, value) in self.headers {
            file[at] = value;
        }
        // The section headers are what stands last.
        if sections {
            let at = file.len() - 1 - self.kept.index(self.section_bytes * 11);
            file[at] ^= 1 << (at % 8);
        }
        if self.cut {
            file.truncate(self.kept.index(file.len()));
        }
        file
    }
}

/// Fields ascend and end within the file, which keeps its length.
pub(super) fn stays_within(file: &[u8], map: &AddressMap) -> Result<(), TestCaseError> {
    let mut end = 0;
    for field in fields(file) {
        prop_assert!(field.offset >= end, "fields overlap or descend");
        end = field.offset + field.form.bytes();
        prop_assert!(end <= file.len(), "a field ends after the file");
    }
    prop_assert!(moved(file, &AddressMap::default()) == file);
    prop_assert_eq!(moved(file, map).len(), file.len());
    let mut all = AddressMap::default();
    all.locations.push(Location { start: 0, shift: i64::MIN });
    prop_assert_eq!(moved(file, &all).len(), file.len());
    Ok(())
}

/// A patch of the fast level, which makes `new`.
pub(super) fn derived_quickly(old: &[u8], new: &[u8]) -> Option<Relocated> {
    let options = MatchOptions { level: Level::Fast, ..MatchOptions::default() };
    let relocated = derive_quick(old, new, &options, &tempfile::tempfile).unwrap()?;
    let base = moved(old, &relocated.map);
    let (program, mut made) = (&relocated.program, Vec::new());
    apply(&mut program.readers(), program.ops, &base, program.out_bytes, &mut made).unwrap();
    assert!(made == new);
    Some(relocated)
}

pub(super) fn derived_or_not(old: &[u8], new: &[u8]) {
    derived_quickly(old, new);
    let options = MatchOptions::default();
    let seen = look(old, new, &options).unwrap();
    let _ = derive(old, new, &seen, 1, &options, &tempfile::tempfile).unwrap();
}
