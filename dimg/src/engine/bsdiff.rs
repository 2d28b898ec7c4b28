//! The foreign codec: patches as the crate `bsdiff` makes them.
//!
//! A patch is a sequence of operations, each a control block of three 64-bit little-endian numbers (bytes to add, bytes to insert,
//! and a seek, which is signed by its top bit), the differences to add, and the inserted bytes. The seek happens after both. Making
//! one takes 17 times the length of the old content in memory; our own programs are smaller and found faster.

use super::error::EngineError;
use std::io::{BufRead, Read, Write};

/// The length of a control block.
const CONTROL_BYTES: usize = 24;

/// The output buffer.
const BUFFER_BYTES: usize = 128 << 10;

/// The memory that [`diff`] takes beside the patch.
#[must_use]
pub fn diff_memory(old_bytes: u64) -> u64 {
    old_bytes.saturating_mul(16) + (1 << 16)
}

/// The longest patch that can make a content of `out_bytes`: each operation makes at least one byte, but for the first.
#[must_use]
pub fn max_patch_bytes(out_bytes: u64) -> u64 {
    out_bytes.saturating_mul(CONTROL_BYTES as u64 + 1).saturating_add(CONTROL_BYTES as u64)
}

/// The patch that makes `new` from `old`, as the crate `bsdiff` finds it.
///
/// # Errors
/// [`EngineError::Compress`] when the crate fails.
pub fn diff(old: &[u8], new: &[u8]) -> Result<Vec<u8>, EngineError> {
    let mut patch = Vec::new();
    bsdiff::diff(old, new, &mut patch)
        .map_err(|error| EngineError::Compress { codec: "bsdiff", reason: error.to_string() })?;
    Ok(patch)
}

/// Reads a patch to its end and writes the `out_bytes` bytes that it makes from `old` to `out`.
///
/// # Errors
/// [`EngineError::Program`] for a patch that is damaged, reaches outside of `old` or makes another length;
/// [`EngineError::Output`] for a failed write. Output may have been written by then.
pub fn apply<R: BufRead>(
    patch: &mut R,
    old: &[u8],
    out_bytes: u64,
    out: &mut dyn Write,
) -> Result<(), EngineError> {
    let mut buffer = vec![0u8; BUFFER_BYTES.min(usize::try_from(out_bytes).unwrap_or(usize::MAX).max(1))];
    let mut position = 0u64;
    let mut left = out_bytes;
    let mut op = 0u64;
    loop {
        let bad = |reason: &'static str| EngineError::program(op, reason);
        let read_failed = |error: std::io::Error| EngineError::program(op, error.to_string());
        if patch.fill_buf().map_err(read_failed)?.is_empty() {
            break;
        }
        let mut control = [[0u8; 8]; 3];
        for number in &mut control {
            patch.read_exact(number).map_err(read_failed)?;
        }
        let [add, insert, seek] = control.map(u64::from_le_bytes);
        // The first operation may do nothing but seek.
        if add == 0 && insert == 0 && op > 0 {
            return Err(bad("it makes nothing"));
        }
        left = left
            .checked_sub(add)
            .and_then(|left| left.checked_sub(insert))
            .ok_or_else(|| bad("it makes more than the length of the new content"))?;
        let end =
            position.checked_add(add).ok_or_else(|| bad("it copies beyond the end of the old content"))?;
        let range = usize::try_from(position).ok().zip(usize::try_from(end).ok());
        let source =
            if add == 0 { Some(&[][..]) } else { range.and_then(|(start, end)| old.get(start..end)) };
        let mut source = source.ok_or_else(|| bad("it copies beyond the end of the old content"))?;
        while !source.is_empty() {
            let count = source.len().min(buffer.len());
            let made = &mut buffer[..count];
            patch.read_exact(made).map_err(read_failed)?;
            for (made, old) in made.iter_mut().zip(source) {
                *made = made.wrapping_add(*old);
            }
            out.write_all(made).map_err(EngineError::Output)?;
            source = &source[count..];
        }
        let copied = std::io::copy(&mut patch.by_ref().take(insert), out).map_err(EngineError::Output)?;
        if copied != insert {
            return Err(bad("the patch ends too early"));
        }
        let magnitude = (seek & !(1 << 63)).cast_signed();
        let seek = if seek >> 63 == 0 { magnitude } else { -magnitude };
        position = end.checked_add_signed(seek).ok_or_else(|| bad("it seeks outside of the old content"))?;
        op += 1;
    }
    if left > 0 {
        return Err(EngineError::program(op, "the patch ends before the new content does"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(patch: &[u8], old: &[u8], out_bytes: u64) -> Result<Vec<u8>, EngineError> {
        let mut out = Vec::new();
        apply(&mut &*patch, old, out_bytes, &mut out).map(|()| out)
    }

    proptest! {
        #[test]
        fn agrees_with_the_crate(
            old in prop::collection::vec(0u8..4, 0..300),
            new in prop::collection::vec(0u8..4, 0..300),
            keep in any::<bool>(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let new = if keep { [&old[..], &new[..], &old[..]].concat() } else { new };
            let mut patch = diff(&old, &new).unwrap();
            prop_assert!(patch.len() as u64 <= max_patch_bytes(new.len() as u64));
            let mut theirs = Vec::new();
            bsdiff::patch(&old, &mut &patch[..], &mut theirs).unwrap();
            prop_assert_eq!(&theirs, &new);
            prop_assert_eq!(&made(&patch, &old, new.len() as u64).unwrap(), &new);
            prop_assert!(made(&patch, &old, new.len() as u64 + 1).is_err());
            for cut in 0..patch.len() {
                prop_assert!(made(&patch[..cut], &old, new.len() as u64).is_err());
            }
            if !patch.is_empty() {
                let at = at.index(patch.len());
                patch[at] ^= 1 << bit;
                if let Ok(out) = made(&patch, &old, new.len() as u64) {
                    prop_assert_eq!(out.len(), new.len());
                }
            }
        }
    }

    #[test]
    fn hostile_lengths() {
        let block = |numbers: [u64; 3]| numbers.map(u64::to_le_bytes).concat();
        for numbers in [
            [u64::MAX, 0, 0],
            [0, u64::MAX, 0],
            [1 << 63, 1 << 63, 0],
            [5, 0, 0],
            [0, 0, 1 << 63 | 1],
            [0, 3, u64::MAX],
        ] {
            assert!(made(&block(numbers), b"old", 3).is_err(), "{numbers:?}");
        }
        let idle = block([0, 0, 0]).repeat(2);
        assert!(made(&idle, b"old", 0).is_err());
    }
}
