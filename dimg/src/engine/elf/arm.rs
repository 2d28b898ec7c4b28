//! aarch64 code: branches, and pairs of instructions that make an address of a page and a place in it.

use super::image::{Image, u32_at};
use super::scan::{Field, Form, Sink};
use super::tables::Region;

/// A page's place is made within so many instructions, or is not found.
const LOOK_AHEAD: usize = 16;

/// The pages that registers hold.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// The offset of the instruction that made it, plus one; none: 0.
    made: usize,
    page: u64,
}

/// The fields of the instructions of a region of code that start from `from` on and before `to`.
pub(super) fn scan(image: &Image<'_>, region: &Region, from: usize, to: usize, sink: &mut Sink<'_>) {
    let misaligned = usize::try_from(region.address % 4).unwrap_or(0);
    let start = region.start + (4 - misaligned) % 4;
    let skew = region.address.wrapping_sub(region.start as u64);
    let mut pages = [Page::default(); 32];
    let from = start + from.saturating_sub(start).next_multiple_of(4);
    // What was made further back is of no use.
    let mut at = from.saturating_sub(4 * LOOK_AHEAD).max(start);
    while at < to && at + 4 <= region.end {
        let Some(word) = u32_at(image.bytes, at) else { break };
        let address = skew.wrapping_add(at as u64);
        let register = (word & 31) as usize;
        if word & 0x7c00_0000 == 0x1400_0000 {
            // b, bl
            let target = address.wrapping_add(signed(word & 0x03ff_ffff, 26) << 2);
            if image.in_code(target) {
                sink.put(&Field { offset: at, form: Form::Branch26, target, base: Some(address) });
            }
        } else if word & 0x9f00_0000 == 0x9000_0000 {
            // adrp
            let pages_away = signed((word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3, 21);
            let page = (address & !0xfff).wrapping_add(pages_away << 12);
            pages[register] = Page { made: at + 1, page };
            let target = place_in(image, region, at, register).map_or(page, |low| page | low);
            if image.contains(target) {
                sink.put(&Field { offset: at, form: Form::Page21, target, base: Some(address) });
            }
        } else if let Some((base, low, scale)) = low_bits(word) {
            let Page { made, page } = pages[base];
            let target = page | low;
            let back = at.wrapping_sub(made.wrapping_sub(1));
            if made != 0
                && let Ok(back) = u16::try_from(back)
                && usize::from(back) <= 4 * LOOK_AHEAD
                && image.contains(target)
            {
                sink.put(&Field { offset: at, form: Form::Low12 { scale, back }, target, base: None });
            }
        }
        at += 4;
    }
}

/// The lowest `bits` of `value` with their sign.
fn signed(value: u32, bits: u32) -> u64 {
    let shifted = (value << (32 - bits)).cast_signed() >> (32 - bits);
    i64::from(shifted).cast_unsigned()
}

/// The place within the page that `register` holds from `at` on, as the first instruction that uses it has it.
fn place_in(image: &Image<'_>, region: &Region, at: usize, register: usize) -> Option<u64> {
    for next in 1..=LOOK_AHEAD {
        let place = at + 4 * next;
        let word = u32_at(&image.bytes[..region.end], place)?;
        if let Some((base, low, _)) = low_bits(word)
            && base == register
        {
            return Some(low);
        }
        if word & 0x9f00_0000 == 0x9000_0000 && (word & 31) as usize == register {
            return None;
        }
    }
    None
}

/// Of an instruction that adds twelve bits to a register, or loads or stores at that place: the register, the bytes added, and
/// how far they are shifted.
fn low_bits(word: u32) -> Option<(usize, u64, u8)> {
    let base = (word >> 5 & 31) as usize;
    let bits = u64::from(word >> 10 & 0xfff);
    if word & 0xffc0_0000 == 0x9100_0000 {
        return Some((base, bits, 0));
    }
    if word & 0x3b00_0000 == 0x3900_0000 {
        let vector = word >> 26 & 1 == 1;
        let size = (word >> 30) as u8;
        let scale = if vector && word >> 23 & 1 == 1 && size == 0 { 4 } else { size };
        return Some((base, bits << scale, scale)).filter(|(_, low, _)| *low < 0x1000);
    }
    None
}
