use super::*;
use crate::engine::bsdiff;
use crate::engine::compress::Level;
use crate::engine::elf::AddressMap;
use crate::engine::matcher::{MatchOptions, diff};
use crate::engine::program::{Builder, Program};
use proptest::prelude::*;

fn text(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .flat_map(|i| format!("line {} of {};", i * (seed + 3) % 97, i / 5).into_bytes())
        .take(length)
        .collect()
}

fn pairs() -> Vec<(Vec<u8>, Vec<u8>)> {
    (0..6)
        .map(|seed| {
            let old = text(300 * seed, seed);
            let mut new = old.clone();
            if seed > 1 {
                new.splice(100..150, text(70, 40));
                new[200] ^= 1;
            }
            (old, new)
        })
        .collect()
}

fn programs(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<Program> {
    pairs.iter().map(|(old, new)| diff(old, new, &MatchOptions::default())).collect()
}

fn applied(frame: &[u8], slot: u64, old: &[u8], out_bytes: u64) -> Result<Vec<u8>, EngineError> {
    let mut out = Vec::new();
    ProgramFrame::parse(frame)?.apply_slot(slot, old, out_bytes, &mut out)?;
    Ok(out)
}

#[test]
fn group_round_trip() {
    let pairs = pairs();
    let programs = programs(&pairs);
    let frame = ProgramFrame::encode(&programs.iter().collect::<Vec<_>>(), Level::Default).unwrap();
    let parsed = ProgramFrame::parse(&frame).unwrap();
    let group = parsed.group().unwrap();
    assert_eq!(parsed.slots(), 6);
    for (slot, (old, new)) in (0u64..).zip(&pairs) {
        let mut out = Vec::new();
        group.apply_slot(slot, old, new.len() as u64, &mut out).unwrap();
        assert!(out == *new);
        assert!(applied(&frame, slot, old, new.len() as u64).unwrap() == *new);
        assert_eq!(group.program(slot, new.len() as u64).unwrap(), programs[usize::try_from(slot).unwrap()]);
        assert!(applied(&frame, slot, old, new.len() as u64 + 1).is_err());
    }
    assert!(matches!(applied(&frame, 6, b"", 0), Err(EngineError::NoSlot { slot: 6, slots: 6 })));
}

#[test]
fn single_round_trip_and_every_truncation() {
    let old = text(5000, 1);
    let new = [&old[1000..3000], b"something else", &old[..4000], &text(3000, 9)].concat();
    let program = diff(&old, &new, &MatchOptions::default());
    for level in [Level::Fast, Level::Default, Level::Best] {
        let frame = ProgramFrame::encode(&[&program], level).unwrap();
        assert!(applied(&frame, 0, &old, new.len() as u64).unwrap() == new);
        assert_eq!(ProgramFrame::parse(&frame).unwrap().program(new.len() as u64, 1 << 20).unwrap(), program);
        for cut in 0..frame.len() {
            assert!(applied(&frame[..cut], 0, &old, new.len() as u64).is_err(), "cut at {cut}");
        }
        let longer = [&frame[..], &[0]].concat();
        assert!(matches!(applied(&longer, 0, &old, new.len() as u64), Err(EngineError::Corrupt { .. })));
    }
}

#[test]
fn references_round_trip_and_every_truncation() {
    let (old, new) = (text(3000, 2), [&text(3000, 2)[1000..2500], &text(800, 9)].concat());
    let frame = ReferenceFrame::encode(&old, &new, Level::Default).unwrap().unwrap();
    let apply = |frame: &[u8], old: &[u8], out_bytes: usize| {
        let mut out = Vec::new();
        ReferenceFrame::parse(frame)?.apply(old, out_bytes as u64, &mut out).map(|()| out)
    };
    for cut in 0..=frame.len() {
        let made = apply(&frame[..cut], &old, new.len());
        assert_eq!(made.is_ok(), cut == frame.len(), "cut at {cut}");
        assert!(made.is_err() || made.unwrap() == new);
    }
    // Behind another base it is another content, or none.
    assert!(apply(&frame, &text(3000, 5), new.len()).map_or(true, |made| made != new));
    assert!(apply(&frame, b"", new.len()).is_err());
    assert!(apply(&frame, &old, new.len() + 1).is_err());
    assert!(apply(&StoredFrame::encode(&[&new], Level::Fast).unwrap(), &old, new.len()).is_err());
    assert!(ReferenceFrame::encode(b"", &new, Level::Default).unwrap().is_none());
}

#[test]
fn stored_and_bsdiff_round_trip_and_every_truncation() {
    let (old, new) = (text(3000, 2), text(3500, 2));
    for level in [Level::Fast, Level::Default, Level::Best] {
        let frame = StoredFrame::encode(&[&old, b"", &new], level).unwrap();
        let parsed = StoredFrame::parse(&frame).unwrap();
        assert_eq!(parsed.raw_bytes(), 6500);
        assert!(parsed.decode().unwrap() == [&old[..], &new].concat());
        for cut in 0..frame.len() {
            assert!(
                StoredFrame::parse(&frame[..cut]).and_then(|frame| frame.decode()).is_err(),
                "cut at {cut}"
            );
        }
        let patch = BsdiffFrame::encode(&bsdiff::diff(&old, &new).unwrap(), level).unwrap();
        for cut in 0..=patch.len() {
            let mut out = Vec::new();
            let result = BsdiffFrame::parse(&patch[..cut])
                .and_then(|frame| frame.apply(&old, new.len() as u64, &mut out));
            assert_eq!(result.is_ok(), cut == patch.len());
            assert!(result.is_err() || out == new);
        }
    }
    assert!(matches!(
        StoredFrame::encode(&[&vec![0; 8 << 20], b"x"], Level::Fast),
        Err(EngineError::Limit { limit: STORED_CHUNK_BYTES, .. })
    ));
}

/// A frame whose heads claim what they like.
fn claimed(slots: u64, heads: [u64; 8]) -> Vec<u8> {
    let mut frame = Vec::new();
    varint::put(&mut frame, slots);
    for head in heads {
        varint::put(&mut frame, head);
        if head & 7 != 0 {
            varint::put(&mut frame, 1);
        }
    }
    frame.extend_from_slice(&[0; 64]);
    frame
}

#[test]
fn hostile_heads() {
    for frame in [
        claimed(0, [0; 8]),
        claimed(u64::MAX, [0; 8]),
        claimed(1, [u64::MAX; 8]),
        claimed(1, [8, u64::MAX, 0, 0, 0, 0, 0, 0]),
        claimed(1, [8 | 7, 0, 0, 0, 0, 0, 0, 0]),
        claimed(2, [16, 1 << 60, 0, 0, 0, 0, 0, 0]),
        claimed(2, [16 | 1, PROGRAM_GROUP_BYTES << 3 | 1, 0, 0, 0, 0, 0, 0]),
        claimed(1, [8, 8, 8, 8, 8, 8, 8, MAX_RAW_BYTES << 3 | 2]),
    ] {
        assert!(ProgramFrame::parse(&frame).and_then(|frame| frame.group()).is_err());
        assert!(applied(&frame, 0, b"old", 10).is_err());
    }
    for head in [u64::MAX, (STORED_CHUNK_BYTES + 1) << 3, 3, 8] {
        let mut frame = Vec::new();
        varint::put(&mut frame, head);
        assert!(StoredFrame::parse(&frame).is_err());
        assert!(BsdiffFrame::parse(&frame).is_err());
    }
}

#[test]
fn hostile_programs() {
    let raw = |streams: [&[u64]; 5]| {
        let mut program = Program { ops: streams[0].len() as u64, out_bytes: 0, streams: Default::default() };
        for (stream, numbers) in program.streams.iter_mut().zip(streams) {
            numbers.iter().for_each(|&number| varint::put(stream, number));
        }
        ProgramFrame::encode(&[&program], Level::Default).unwrap()
    };
    for (streams, what) in [
        ([&[3u64][..], &[0], &[0], &[4], &[]], "a run longer than the program"),
        ([&[3], &[0], &[0], &[2], &[]], "runs that end too early"),
        ([&[3], &[0], &[0], &[1, 0], &[1, 1]], "an empty run"),
        ([&[4], &[0], &[0], &[4], &[]], "beyond the old content"),
        ([&[3], &[0], &[2], &[3], &[]], "beyond the old content after a seek"),
        ([&[0], &[1], &[1], &[], &[]], "before the old content"),
        ([&[0], &[3], &[0], &[], &[]], "inserts that are not there"),
        ([&[0, 3], &[0, 0], &[0, 0], &[3], &[]], "an operation that makes nothing"),
        ([&[u64::MAX], &[u64::MAX], &[u64::MAX], &[u64::MAX], &[u64::MAX]], "overflow"),
        ([&[3, 3], &[0, 0], &[0, 5], &[6], &[]], "too much"),
    ] {
        assert!(applied(&raw(streams), 0, b"old", 3).is_err(), "{what}");
    }
    assert_eq!(applied(&raw([&[3], &[0], &[0], &[3], &[]]), 0, b"old", 3).unwrap(), b"old");
}

#[test]
fn bombs_are_refused() {
    // Streams that decode to far more than what they make.
    let mut builder = Builder::new();
    builder.insert(&vec![0; 6 << 20]);
    let program = builder.finish();
    let frame = ProgramFrame::encode(&[&program], Level::Fast).unwrap();
    assert!(frame.len() < 4096);
    assert!(matches!(applied(&frame, 0, b"", 100), Err(EngineError::Limit { limit: 100, .. })));
    assert!(matches!(ProgramFrame::parse(&frame).unwrap().group(), Err(EngineError::Limit { .. })));
}

proptest! {
    #[test]
    fn damage_is_found_or_harmless(at in any::<prop::sample::Index>(), bit in 0u8..8, level in 0u8..2) {
        let level = if level == 0 { Level::Fast } else { Level::Default };
        let pairs = pairs();
        let programs = programs(&pairs);
        let (old, new) = &pairs[5];
        let flip = |mut frame: Vec<u8>| {
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            frame
        };
        let group = flip(ProgramFrame::encode(&programs.iter().collect::<Vec<_>>(), level).unwrap());
        let single = flip(ProgramFrame::encode(&[&programs[5]], level).unwrap());
        for (frame, slot) in [(group, 5), (single, 0)] {
            if let Ok(out) = applied(&frame, slot, old, new.len() as u64) {
                prop_assert_eq!(out.len(), new.len());
            }
        }
        let stored = flip(StoredFrame::encode(&[old, new], level).unwrap());
        if let Ok(out) = StoredFrame::parse(&stored).and_then(|frame| frame.decode()) {
            prop_assert!(out.len() as u64 <= STORED_CHUNK_BYTES);
        }
        let patch = flip(BsdiffFrame::encode(&bsdiff::diff(old, new).unwrap(), level).unwrap());
        let mut out = Vec::new();
        if BsdiffFrame::parse(&patch).and_then(|frame| frame.apply(old, new.len() as u64, &mut out)).is_ok() {
            prop_assert_eq!(out.len(), new.len());
        }
    }
}

#[test]
fn address_maps_come_back_and_damage_is_refused_or_harmless() {
    let mut raw = Vec::new();
    for value in [3u64, 2, 10, 4, 9, 2, 4, 0, 100, 50, 1, 2, 6, 8] {
        varint::put(&mut raw, value);
    }
    let map = AddressMap::decode(&mut &raw[..]).unwrap();
    for maps in [&[&map][..], &[&map, &map, &AddressMap::default()]] {
        for level in [Level::Fast, Level::Default] {
            let bytes = RelocationFrame::encode(maps, level).unwrap();
            let frame = RelocationFrame::parse(&bytes).unwrap();
            assert_eq!(frame.slots(), maps.len() as u64);
            assert_eq!(frame.decode().unwrap().iter().collect::<Vec<_>>(), maps);
            for at in 0..bytes.len() {
                let decode = |bytes: &[u8]| RelocationFrame::parse(bytes).and_then(|frame| frame.decode());
                assert!(decode(&bytes[..at]).is_err(), "cut off at {at}");
                for bit in 0..8 {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= 1 << bit;
                    let _ = decode(&damaged);
                }
            }
        }
    }
    assert!(RelocationFrame::parse(&[0, 0]).is_err());
}
