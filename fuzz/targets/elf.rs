//! A relocated ELF file, class data archive or opened WebAssembly module: a hostile old file, and a hostile frame of address maps.
//!
//! Layout: 1 byte, 2 bytes of length of the frame, the frame, the old file. With an odd first byte a map is made too, from the old file to one
//! that the seeds have.

#![no_main]

use d4c_fuzz::parts::Parts;
use dimg::engine::elf::sample::{Sample, archive};
use dimg::engine::elf::sample32::Sample32;
use dimg::engine::elf::{AddressMap, Version, derive, fits, look, relocate};
use dimg::engine::frame::RelocationFrame;
use dimg::engine::matcher::MatchOptions;
use dimg::engine::member::Plan;
use dimg::engine::member::wasm_sample::Sample as Module;
use dimg::engine::program::apply;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static NEW: LazyLock<[Vec<u8>; 5]> = LazyLock::new(|| {
    let [x86, arm] =
        [false, true].map(|arm| Sample { arm, functions: 40, longer: 7, ..Sample::default() }.build());
    let mut module = Vec::new();
    let content = Module { functions: 60, more: 3, padded: false }.build();
    Plan::open(&content, u64::MAX, &mut module).expect("memory can be written");
    let arm32 = Sample32 { functions: 40, longer: 7, ..Sample32::default() }.build();
    [x86, arm, arm32, archive(120, 7), module]
});

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts(input);
    let (flags, length) = (parts.byte(), parts.short());
    let (frame, old) = (parts.take(length.into()), parts.0);
    if let Ok(maps) = RelocationFrame::parse(frame).and_then(|frame| frame.decode()) {
        for map in maps.iter().take(2) {
            let made = moved(old, map);
            assert_eq!(made.len(), old.len());
            assert_eq!(made, moved(old, map), "the same is made twice");
        }
    }
    assert_eq!(moved(old, &AddressMap::default()), old, "nothing moves by an empty map");
    if let Some(new) = NEW.iter().find(|new| flags & 1 == 1 && fits(old, new)) {
        derived(old, new);
    }
});

fn moved(old: &[u8], map: &AddressMap) -> Vec<u8> {
    let mut made = Vec::new();
    relocate(old, map, Version::LAST, &mut made).expect("memory can be written");
    made
}

/// A patch that is made from a hostile file makes the new one all the same.
fn derived(old: &[u8], new: &[u8]) {
    let options = MatchOptions::default();
    let seen = look(old, new, &options).expect("programs are sound");
    let Some(relocated) = derive(old, new, &seen, 2, &options, &tempfile::tempfile).expect("a patch is made")
    else {
        return;
    };
    let (program, mut made) = (&relocated.program, Vec::new());
    let base = moved(old, &relocated.map);
    apply(&mut program.readers(), program.ops, &base, program.out_bytes, &mut made).expect("it is applied");
    assert!(made == new, "something else is made");
}
