//! Tests on small executables for 32-bit ARM made here, and on damaged ones.

use super::coding::Coding;
use super::map::Location;
use super::sample::Sample;
use super::sample32::Sample32;
use super::scan::Form;
use super::tests::{
    damage, derived, derived_or_not, derived_quickly, fields, fields_in, map, moved, nonzero, stays_within,
};
use super::*;
use proptest::prelude::*;

fn count(file: &[u8], form: impl Fn(Form) -> bool) -> usize {
    fields(file).iter().filter(|field| form(field.form)).count()
}

#[test]
fn all_that_has_addresses_is_found() {
    for (fixed, sections) in [(false, true), (false, false), (true, true), (true, false)] {
        let file = Sample32 { fixed, sections, ..Sample32::default() }.build();
        let of = |coding| count(&file, |form| form == Form::Arm32(coding));
        let high = count(&file, |form| matches!(form, Form::Arm32(Coding::High16 { .. })));
        let all = format!("fixed {fixed}, sections {sections}");
        assert_eq!((of(Coding::Branch), of(Coding::Word)), (150, 150), "{all}");
        assert_eq!((of(Coding::Low16), high), (300, 300), "{all}");
        // The last one shares 64 bytes with what is none.
        let entries = if sections { 300 } else { 299 };
        assert_eq!([Coding::First8, Coding::Second8, Coding::Last12].map(of), [entries; 3], "{all}");
        // The index, and what it points to, of which nothing but a section tells where it is.
        assert_eq!(of(Coding::Near31), if sections { 500 } else { 400 }, "{all}");
        // Symbol 0 is none.
        assert_eq!(of(Coding::Symbol), 99, "{all}");
        // Names, values and lengths of symbols, places of relocations, words of code and data, the dynamic section.
        assert!(count(&file, |form| form == Form::Add32) >= 5 * 300 + 200 + 4, "{all}");
    }
}

#[test]
fn slices_change_nothing() {
    let file = Sample32 { functions: 5000, ..Sample32::default() }.build();
    let whole = fields_in(&file, usize::MAX, 1);
    assert!(whole.len() > 50_000, "{}", whole.len());
    for (slice_bytes, threads) in [(1, 1), (13, 2), (1000, 3), (1 << 20, 4)] {
        assert!(fields_in(&file, slice_bytes, threads) == whole, "{slice_bytes}");
    }
}

#[test]
fn a_rebuild_leaves_next_to_nothing() {
    for (fixed, sections) in [(false, true), (false, false), (true, true), (true, false)] {
        let old = Sample32 { fixed, sections, ..Sample32::default() };
        let new = Sample32 { longer: 37, ..old };
        let (plain, relocated) = derived(&old.build(), &new.build());
        assert_eq!(relocated.version, Version::Five);
        let (before, after) = (nonzero(&plain), nonzero(&relocated.program));
        // Nothing but a section tells where exceptions are handled.
        let part = if sections { 6 } else { 4 };
        assert!(before > 1500 && after * part < before, "{old:?}: {before} differences, then {after}");
        assert!(relocated.map.segments() < 60, "{old:?}: {} segments", relocated.map.segments());
        let quick = derived_quickly(&old.build(), &new.build()).map(|quick| nonzero(&quick.program));
        assert!(quick.is_some_and(|after| after * 3 < before), "{before} differences, then {quick:?}");
    }
}

#[test]
fn earlier_versions_leave_it_as_it_is() {
    let file = Sample32::default().build();
    let map = AddressMap { locations: vec![Location { start: 0x1000, shift: 16 }], overrides: vec![] };
    for number in 1..5 {
        let mut out = Vec::new();
        relocate(&file, &map, Version::from_number(number).unwrap(), &mut out).unwrap();
        assert!(out == file);
    }
    assert!(moved(&file, &map) != file);
    assert!(moved(&file, &AddressMap::default()) == file);
    assert!(!fits(&file, &Sample::default().build()));
}

proptest! {
    #[test]
    fn fields_of_damaged_files_are_within_them(
        fixed: bool,
        sections: bool,
        damage in damage(0x100, 40),
        map in map(),
    ) {
        let sample = Sample32 { fixed, sections, functions: 40, ..Sample32::default() };
        let file = damage.done_to(sample.build(), sections);
        stays_within(&file, &map)?;
        let other = Sample32 { longer: 7, ..sample }.build();
        if fits(&file, &other) {
            derived_or_not(&file, &other);
            derived_or_not(&other, &file);
        }
    }
}
