//! What making a content takes, estimated from above by its recipe alone.
//!
//! Bases, and what stages but the last make of more than some MiB, are mapped and do not count.

use super::{Dimg, FrameKind, Recipe, Stage, StageCodec};
use crate::engine::compress::MAX_WINDOW_LOG;
use crate::engine::frame::{
    BSDIFF_WINDOW_LOG, MAX_REFERENCE_BYTES, PROGRAM_GROUP_BYTES, STORED_GROUP_BYTES, STORED_WINDOW_LOG,
    stream_window_log,
};
use crate::engine::member::{MAX_ZIP_MEMBER_BYTES, WASM_VERSION, xz_memory};
use crate::engine::program::StreamKind;

/// Of a decoder beside its window, of what reads and writes.
const REST_BYTES: u64 = 1 << 20;
/// Of an encoder that packs a member again.
const ENCODER_BYTES: u64 = 4 << 20;
/// Tables and places of an ELF file that is relocated, at most.
const SCAN_BYTES: u64 = 32 << 20;
/// Of each thread more that relocates one file: fields of parts of it.
const THREAD_BYTES: u64 = 16 << 20;
/// Bitcode that is taken apart: 13 times its bytes were measured.
const BITCODE_FACTOR: u64 = 14;
/// A WebAssembly module: a section of it twice, or a place for each of its segments, which have six bytes at least.
const WASM_FACTOR: u64 = 5;

impl Dimg {
    /// The memory that making the content of `recipe` takes on so many threads.
    pub(super) fn making_bytes(&self, recipe: &Recipe, threads: usize) -> u64 {
        let (mut old, mut most) = (recipe.base.map_or(0, |base| base.size), 0u64);
        let last = recipe.stages.len().saturating_sub(1);
        // What the stage is given of what is in memory.
        let mut given = 0;
        for (number, stage) in recipe.stages.iter().enumerate().filter(|(_, stage)| !stage.is_fill()) {
            let made = if number < last && self.holds(given, stage.out_bytes) { stage.out_bytes } else { 0 };
            most = most.max(self.stage_bytes(stage, old).saturating_add(given + made));
            (old, given) = (stage.out_bytes, made);
        }
        most.saturating_add(REST_BYTES + (threads as u64).saturating_sub(1) * THREAD_BYTES)
    }

    /// What one stage takes that makes its bytes from `old` ones.
    fn stage_bytes(&self, stage: &Stage, old: u64) -> u64 {
        let out = stage.out_bytes;
        let group = |decoded: u64| if self.groups.has(stage.frame) { 0 } else { decoded };
        // The smallest power of two that holds what is decoded, but for the largest.
        let window =
            |bytes: u64, log: u32| bytes.min(1 << log).next_power_of_two().min(1 << log) + REST_BYTES / 4;
        match (stage.codec, stage.kind) {
            (StageCodec::Stored, FrameKind::Chunk) => window(out, STORED_WINDOW_LOG),
            // Its bytes as they grow, and a window.
            (StageCodec::Stored, _) => out.min(STORED_GROUP_BYTES) + group(2 * STORED_GROUP_BYTES),
            (StageCodec::Program, FrameKind::ProgramGroup) => group(2 * PROGRAM_GROUP_BYTES),
            (StageCodec::Program, _) => {
                StreamKind::ALL.into_iter().map(|kind| window(out, stream_window_log(kind))).sum()
            }
            (StageCodec::Pack, _) if stage.version == 3 => xz_memory(old),
            (StageCodec::Unpack, _) if stage.version == 3 => window(out, MAX_WINDOW_LOG - 1),
            (StageCodec::Pack | StageCodec::Unpack, _) if stage.version == 2 => {
                out.max(old).saturating_mul(BITCODE_FACTOR)
            }
            (StageCodec::Pack, _) if stage.version == WASM_VERSION => out.saturating_mul(2),
            (StageCodec::Unpack, _) if stage.version == WASM_VERSION => old.saturating_mul(WASM_FACTOR),
            // Of a zip file one member at a time is held.
            (StageCodec::Pack | StageCodec::Unpack | StageCodec::UnpackSome, _) => {
                out.max(old).saturating_mul(2).min(2 * MAX_ZIP_MEMBER_BYTES) + ENCODER_BYTES
            }
            (StageCodec::Elf, _) => old.saturating_mul(3).min(SCAN_BYTES) + group(2 * PROGRAM_GROUP_BYTES),
            (StageCodec::Reference, _) => {
                window(old.saturating_add(out), MAX_WINDOW_LOG) + out.min(MAX_REFERENCE_BYTES)
            }
            (StageCodec::Bsdiff, _) => window(old.saturating_add(out), BSDIFF_WINDOW_LOG),
        }
    }
}
