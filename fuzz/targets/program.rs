//! Frames, parsed and applied to a small content.
//!
//! Layout: the kind of the frame, the slot, two bytes of length of what it makes, the frame.

#![no_main]

use d4c_fuzz::images::text;
use d4c_fuzz::parts::Parts;
use dimg::engine::EngineError;
use dimg::engine::frame::{BsdiffFrame, PROGRAM_GROUP_BYTES, ProgramFrame, ReferenceFrame, StoredFrame};
use dimg::engine::matcher::{MatchOptions, diff};
use dimg::engine::program::{Program, apply, compose};
use libfuzzer_sys::fuzz_target;
use std::io::Read;
use std::sync::LazyLock;

static OLD: LazyLock<Vec<u8>> = LazyLock::new(|| text(0, 1));
/// Makes from something else what the frames are applied to.
static FIRST: LazyLock<(Vec<u8>, Program)> = LazyLock::new(|| {
    let older = text(0, 0);
    let program = diff(&older, &OLD, &MatchOptions::default());
    (older, program)
});

fuzz_target!(|input: &[u8]| {
    let mut parts = Parts(input);
    let (kind, slot, out_bytes, frame) = (parts.byte(), parts.byte(), u64::from(parts.short()), parts.0);
    // Errors are what most inputs give.
    let _ = match kind % 4 {
        0 => program(frame, slot.into(), out_bytes),
        1 => stored(frame),
        2 => patch(frame, out_bytes),
        _ => reference(frame, out_bytes),
    };
});

fn program(frame: &[u8], slot: u64, out_bytes: u64) -> Result<(), EngineError> {
    let frame = ProgramFrame::parse(frame)?;
    let mut streamed = Vec::new();
    let result = frame.apply_slot(slot, &OLD, out_bytes, &mut streamed);
    assert!(streamed.len() as u64 <= out_bytes, "more was written than asked for");
    let group = frame.group();
    result?;
    assert_eq!(streamed.len() as u64, out_bytes);
    if frame.raw_bytes() > PROGRAM_GROUP_BYTES {
        return Ok(());
    }
    let group = group.expect("what can be applied can be decoded");
    let mut grouped = Vec::new();
    group.apply_slot(slot, &OLD, out_bytes, &mut grouped).expect("a slot is applied as the frame is");
    assert_eq!(grouped, streamed);
    composed(&group.program(slot, out_bytes)?, &streamed);
    if frame.slots() == 1 {
        composed(&frame.program(out_bytes, PROGRAM_GROUP_BYTES)?, &streamed);
    }
    Ok(())
}

/// A program that can be applied to what another makes can be composed with it.
fn composed(second: &Program, expected: &[u8]) {
    let (older, first) = &*FIRST;
    let whole = compose(first, second).expect("programs that fit are composed");
    let mut made = Vec::new();
    apply(&mut whole.readers(), whole.ops, older, whole.out_bytes, &mut made)
        .expect("a composed program is applied");
    assert_eq!(made, expected);
}

fn stored(frame: &[u8]) -> Result<(), EngineError> {
    let frame = StoredFrame::parse(frame)?;
    let decoded = frame.decode()?;
    assert_eq!(decoded.len() as u64, frame.raw_bytes());
    let mut streamed = Vec::new();
    frame.reader()?.read_to_end(&mut streamed).expect("what can be decoded can be streamed");
    assert_eq!(streamed, decoded);
    Ok(())
}

fn patch(frame: &[u8], out_bytes: u64) -> Result<(), EngineError> {
    let mut made = Vec::new();
    let result = BsdiffFrame::parse(frame)?.apply(&OLD, out_bytes, &mut made);
    assert!(made.len() as u64 <= out_bytes, "more was written than asked for");
    assert!(result.is_err() || made.len() as u64 == out_bytes);
    result
}

fn reference(frame: &[u8], out_bytes: u64) -> Result<(), EngineError> {
    let mut made = Vec::new();
    let result = ReferenceFrame::parse(frame)?.apply(&OLD, out_bytes, &mut made);
    assert!(made.len() as u64 <= out_bytes, "more was written than asked for");
    assert!(result.is_err() || made.len() as u64 == out_bytes);
    result
}
