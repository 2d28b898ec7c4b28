//! x86-64 code looked through quickly: of the instructions that compilers write most, two tables tell the length.
//!
//! Where an instruction starts is known when the one before is decoded: some twenty cycles that wait for one another. So two slices are
//! gone through by turns, and what is usual is decoded without a branch that is hard to foretell. All else goes to [`decode`], which
//! says what is right.

use super::x86::{
    BYTE, Instruction, Layout, MODRM, Marks, NEAR, ONE_BYTE, TWO_BYTES, WORD, decode, has_fields, put_step,
    window,
};

/// Slices that are gone through by turns. Three or four are not faster.
pub(super) const LANES: usize = 2;

/// What is known of an instruction, as one number: its length in the lowest four bits, whether it is left to [`decode`], whether it may
/// have fields, and from bit 8 on its layout, of use where it may.
const LENGTH: u32 = 15;
const UNUSUAL: u32 = 1 << 4;
const MARKED: u32 = 1 << 5;
const LAYOUT_SHIFT: u32 = 8;
const LAYOUT: u32 = 0xff << LAYOUT_SHIFT;

/// Of opcodes besides: left to [`decode`] behind a REX, and where addresses may stand in code.
const UNUSUAL_REX: u32 = 1 << 6;
const UNUSUAL_FIXED: u32 = 1 << 7;
/// What counts of the operand: all bits, or none when there is no operand.
const OPERAND_SHIFT: u32 = 24;

/// Opcodes of one byte, then those behind 0F; the length is without the operand.
static OPCODES: [u32; 512] = opcodes();

const fn opcodes() -> [u32; 512] {
    let mut table = [0; 512];
    let mut opcode = 0;
    while opcode < 512 {
        let traits = if opcode < 256 { ONE_BYTE[opcode] } else { TWO_BYTES[opcode - 256] };
        // Numbers put into registers are simple enough, though the rules are their own.
        let number = opcode >= 0xb8 && opcode <= 0xbf;
        let known = traits & !(MODRM | BYTE | WORD | NEAR) == 0 || number;
        let tail = if traits & BYTE != 0 {
            1
        } else if traits & (WORD | NEAR) != 0 || number {
            4
        } else {
            0
        };
        let mut entry = (1 + tail) | if known { 0 } else { UNUSUAL };
        // A distance is behind the opcode, or the first of the operand's bytes.
        entry |= match traits & NEAR != 0 {
            true => MARKED | (Layout::NEAR << 4 | 1) << LAYOUT_SHIFT,
            false => (tail << 4 | 2) << LAYOUT_SHIFT,
        };
        if traits & MODRM != 0 {
            entry |= 0xff << OPERAND_SHIFT;
        }
        entry |= match opcode {
            0x68 | 0x3d | 0xc7 | 0x81 => UNUSUAL_FIXED,
            0xb8..=0xbf => UNUSUAL_REX | UNUSUAL_FIXED,
            _ => 0,
        };
        table[opcode] = entry;
        opcode += 1;
    }
    table
}

/// Of operands, besides [`LENGTH`] and [`MARKED`], which is a distance from the next instruction: left to [`decode`] if the lowest three
/// bits of the next byte are 5, and where addresses may stand in code.
const UNUSUAL_FIVE: u32 = 1 << 6;

/// Operands by their first byte.
static OPERANDS: [u8; 256] = operands();

const fn operands() -> [u8; 256] {
    let mut table = [0; 256];
    let mut place = 0;
    while place < 256 {
        let (mode, operand) = (place >> 6, place & 7);
        let bytes = if mode != 3 && operand == 4 { 2 } else { 1 };
        let form: u32 = match mode {
            0 if operand == 5 => (bytes + 4) | MARKED,
            0 if operand == 4 => bytes | UNUSUAL_FIVE,
            1 => bytes + 1,
            2 => (bytes + 4) | UNUSUAL_FIXED,
            _ => bytes,
        };
        table[place] = form.to_le_bytes()[0];
        place += 1;
    }
    table
}

/// The instruction that begins with these bytes, of which at most a REX, 0F, the opcode and two bytes of the operand count.
#[inline(always)]
fn usual<const FIXED: bool>(first: u64) -> u32 {
    let rex = u32::from(first & 0xf0 == 0x40);
    let word = first >> (8 * rex);
    let two = u32::from(word & 0xff == 0x0f);
    let [opcode, operand, index, ..] = (word >> (8 * two)).to_le_bytes();
    let entry = OPCODES[usize::from(opcode) | if two == 0 { 0 } else { 256 }];
    let form = u32::from(OPERANDS[usize::from(operand)]) & entry >> OPERAND_SHIFT;
    let five = u32::from(index & 7 == 5);
    let fixed = if FIXED { (entry | form) >> 7 } else { 0 };
    let unusual = (five & form >> 6 | rex & entry >> 6 | fixed) & 1;
    let known = entry & (LENGTH | UNUSUAL | MARKED | LAYOUT) | (unusual * UNUSUAL);
    // At most 13 bytes; a near one has no operand. Opcode and place of the distance are further on by the bytes before.
    known + (form & (7 | MARKED)) + (rex + two) * (1 | 1 << LAYOUT_SHIFT)
}

/// Any instruction; a byte where there is none.
#[inline(never)]
fn other<const FIXED: bool>(bytes: &[u8], at: usize) -> u32 {
    let mut last = [0; _];
    decode(window(bytes, at, &mut last)).map_or(1, |found| known::<FIXED>(&found))
}

fn known<const FIXED: bool>(found: &Instruction) -> u32 {
    // At most 15 bytes.
    let length = u32::try_from(found.length).unwrap_or(1) & LENGTH;
    let marked = if has_fields(FIXED, found) { MARKED } else { 0 };
    length | marked | u32::from(Layout::of(FIXED, found).0) << LAYOUT_SHIFT
}

/// Bytes of marks that wait for being added to the others.
const BATCH_BYTES: usize = 2048;
/// An instruction has at most so many bytes.
const MAX_BYTES: usize = 15;

/// Where a lane is.
#[derive(Clone, Copy)]
struct Lane {
    at: usize,
    /// The last one marked.
    last: usize,
    /// Bytes of marks that wait.
    waiting: usize,
}

/// Goes past the instruction at the lane's place.
#[inline(always)]
fn next<const FIXED: bool>(
    bytes: &[u8],
    lane: Lane,
    batch: &mut [u8; BATCH_BYTES],
    steps: &mut Vec<u8>,
) -> Lane {
    let Lane { at, last, waiting } = lane;
    let first = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let mut seen = first.map_or(UNUSUAL, |&first| usual::<FIXED>(u64::from_le_bytes(first)));
    if seen & UNUSUAL != 0 {
        seen = other::<FIXED>(bytes, at);
    }
    let marked = seen & MARKED != 0;
    let (step, [_, layout, ..]) = (at - last, seen.to_le_bytes());
    let waiting = if marked & (step >= 255) {
        far(&batch[..waiting], step, layout, steps);
        0
    } else {
        // Written in any case, and kept if it is one.
        if let Some(mark) = batch.get_mut(waiting..waiting + 2) {
            mark.copy_from_slice(&[step.to_le_bytes()[0], layout]);
        }
        waiting + 2 * usize::from(marked)
    };
    Lane { at: at + (seen & LENGTH) as usize, last: if marked { at } else { last }, waiting }
}

#[cold]
#[inline(never)]
fn far(batch: &[u8], step: usize, layout: u8, steps: &mut Vec<u8>) {
    steps.extend_from_slice(batch);
    put_step(steps, step);
    steps.push(layout);
}

/// Marks the instructions in slices of `bytes`, which end with the region: from, and to before where they start. Gives where the next ones start.
pub(super) fn look<const FIXED: bool>(
    bytes: &[u8],
    bounds: [(usize, usize); LANES],
    marks: [&mut Marks; LANES],
) -> [usize; LANES] {
    let mut batches = [[0; BATCH_BYTES]; LANES];
    let mut lanes: [Lane; LANES] =
        std::array::from_fn(|lane| Lane { at: bounds[lane].0, last: marks[lane].last, waiting: 0 });
    let flush = |lane: &mut Lane, batch: &[u8; BATCH_BYTES], marks: &mut Marks| {
        marks.steps.extend_from_slice(&batch[..lane.waiting]);
        marks.last = lane.last;
        lane.waiting = 0;
    };
    loop {
        let room = |lane: usize| bounds[lane].1.saturating_sub(lanes[lane].at) / MAX_BYTES;
        let rounds = (0..LANES).map(room).fold(BATCH_BYTES / 2, usize::min);
        if rounds == 0 {
            break;
        }
        // A copy stays in registers.
        let mut moving = lanes;
        for _ in 0..rounds {
            for lane in 0..LANES {
                moving[lane] = next::<FIXED>(bytes, moving[lane], &mut batches[lane], &mut marks[lane].steps);
            }
        }
        lanes = moving;
        for lane in 0..LANES {
            flush(&mut lanes[lane], &batches[lane], marks[lane]);
        }
    }
    for lane in 0..LANES {
        while lanes[lane].at < bounds[lane].1 {
            let mut moving = lanes[lane];
            while moving.at < bounds[lane].1 && moving.waiting + 2 <= BATCH_BYTES {
                moving = next::<FIXED>(bytes, moving, &mut batches[lane], &mut marks[lane].steps);
            }
            lanes[lane] = moving;
            flush(&mut lanes[lane], &batches[lane], marks[lane]);
        }
    }
    lanes.map(|lane| lane.at)
}

#[cfg(test)]
mod tests {
    use super::super::x86::WINDOW;
    use super::*;
    use proptest::prelude::*;

    /// All that the quick way takes is as the decoder says, whatever follows.
    fn same<const FIXED: bool>(window: [u8; WINDOW]) {
        let seen = usual::<FIXED>(u64::from_le_bytes(*window.first_chunk().unwrap()));
        if seen & UNUSUAL == 0 {
            let layout = if seen & MARKED == 0 { LAYOUT } else { 0 };
            let found = decode(&window).unwrap();
            assert_eq!(seen & !layout, known::<FIXED>(&found), "{window:02x?}");
        }
    }

    #[test]
    fn every_opcode_and_operand_is_as_the_decoder_says() {
        for prefix in [&[][..], &[0x66]] {
            for rex in [&[][..], &[0x40], &[0x48], &[0x4f], &[0x40, 0x41]] {
                for opcode in 0..512u16 {
                    for operand in 0..=255u8 {
                        for index in [0x24, 0x25, 0xed] {
                            let [low, high] = opcode.to_le_bytes();
                            let two: &[u8] = if high > 0 { &[0x0f] } else { &[] };
                            let bytes = [prefix, rex, two, &[low, operand, index, 1, 2, 3]].concat();
                            let mut window = [0x55; WINDOW];
                            window[..bytes.len()].copy_from_slice(&bytes);
                            same::<false>(window);
                            same::<true>(window);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_as_the_decoder_says(window in any::<[u8; WINDOW]>()) {
            same::<false>(window);
            same::<true>(window);
        }
    }
}
