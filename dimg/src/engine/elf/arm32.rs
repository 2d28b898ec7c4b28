//! Code for 32-bit ARM, of both sets of instructions: branches, and addresses in two halves or in words between functions.
//!
//! Which set it is, is told for 64 bytes at a time by how many words begin, from the top, as those of ARM without a condition do. Blocks
//! of a region are looked through each by itself.

use super::coding::{Coding, half, jumps_to};
use super::image::{Image, u16_at, u32_at};
use super::scan::{Field, Form, Sink};
use super::tables::Region;
use std::ops::Range;

/// Bytes of a region that are looked through with nothing known of those before.
pub(super) const BLOCK_BYTES: usize = if cfg!(fuzzing) { 1 << 10 } else { 128 << 10 };

/// What a register holds.
#[derive(Clone, Copy)]
enum Held {
    Nothing,
    /// The word at an offset.
    Word(usize),
    /// The lower half of a number, by the instruction at an offset.
    Low(usize, u64),
    /// The number, by instructions at two offsets.
    Both(usize, usize, u64),
}

struct Block<'b> {
    image: &'b Image<'b>,
    bytes: &'b [u8],
    region: &'b Region,
    from: usize,
    to: usize,
    fields: Vec<Field>,
    /// Which words are loaded, and so are no code.
    words: Vec<u64>,
    held: [Held; 16],
}

/// The fields in a block of a region of code.
pub(super) fn scan(image: &Image<'_>, region: &Region, block: Range<usize>, sink: &mut Sink<'_>) {
    let Range { start: from, end: to } = block;
    let mut block = Block {
        image,
        bytes: &image.bytes[..region.end],
        region,
        from,
        to,
        fields: Vec::new(),
        words: vec![0; (to - from) / 256 + 2],
        held: [Held::Nothing; 16],
    };
    block.look();
    // What is loaded lies behind.
    block.fields.sort_by_key(|field| field.offset);
    block.fields.iter().for_each(|field| sink.put(field));
}

impl Block<'_> {
    fn address(&self, offset: usize) -> u64 {
        self.region.address.wrapping_add(offset as u64).wrapping_sub(self.region.start as u64)
    }

    fn offset(&self, address: u64) -> Option<usize> {
        let place = usize::try_from(address.wrapping_sub(self.region.address)).ok()?;
        let offset = self.region.start.checked_add(place)?;
        (offset >= self.from && offset.checked_add(4)? <= self.to).then_some(offset)
    }

    /// Whether the 64 bytes around an address are of ARM, not Thumb.
    fn is_arm(&self, address: u64) -> bool {
        let first = address & !63;
        let (mut count, mut all) = (0, 0);
        for address in (0..16).map(|number| first.wrapping_add(4 * number)) {
            let place = usize::try_from(address.wrapping_sub(self.region.address)).ok();
            let offset = place.and_then(|place| self.region.start.checked_add(place));
            if let Some(word) = offset.and_then(|offset| u32_at(self.bytes, offset)) {
                all += 1;
                count += u32::from(word >> 28 == 14);
            }
        }
        count * 16 >= all * 7
    }

    fn bit(&self, address: u64) -> (usize, u64) {
        let number = usize::try_from((address >> 2).wrapping_sub(self.address(self.from) >> 2)).unwrap_or(0);
        (number / 64, 1 << (number % 64))
    }

    fn look(&mut self) {
        let mut at = self.from + usize::from(self.address(self.from) & 1 != 0);
        let mut arm = None;
        while at + 2 <= self.to {
            let address = self.address(at);
            let (place, bit) = self.bit(address);
            if self.words.get(place).is_some_and(|words| words & bit != 0) {
                at += if address & 2 == 0 { 4 } else { 2 };
                continue;
            }
            if arm.is_none() || address & 63 < 4 {
                arm = Some(self.is_arm(address));
            }
            at += match arm {
                Some(true) if address & 3 != 0 => 2,
                Some(true) => self.arm(at, address),
                _ => self.thumb(at, address),
            };
        }
    }

    fn word(&self, at: usize) -> Option<u64> {
        u32_at(&self.bytes[..self.to], at).map(u64::from)
    }

    fn put(&mut self, offset: usize, form: Form, target: u64, base: Option<u64>) {
        self.fields.push(Field { offset, form, target, base });
    }

    fn branch(&mut self, at: usize, address: u64, word: u64, coding: Coding) {
        let target = coding.branch_target(word, address);
        if self.image.in_code(target) {
            self.put(at, Form::Arm32(coding), target, Some(address));
        }
    }

    /// A register is loaded from the word at an address.
    fn load(&mut self, register: u64, address: u64) {
        let place = if address & 3 == 0 { self.offset(address) } else { None };
        let Some(place) = place else { return self.hold(register, Held::Nothing) };
        let (number, bit) = self.bit(address);
        if let Some(words) = self.words.get_mut(number) {
            *words |= bit;
        }
        self.hold(register, Held::Word(place));
        if self.image.fixed
            && let Some(target) = self.word(place)
            && target != 0
            && self.image.contains(target)
        {
            self.put(place, Form::Add32, target, None);
        }
    }

    fn hold(&mut self, register: u64, held: Held) {
        if let Some(place) = usize::try_from(register).ok().and_then(|register| self.held.get_mut(register)) {
            *place = held;
        }
    }

    fn held(&self, register: u64) -> Held {
        let register = usize::try_from(register).ok();
        register.and_then(|register| self.held.get(register)).copied().unwrap_or(Held::Nothing)
    }

    fn low(&mut self, at: usize, register: u64, word: u64) {
        self.hold(register, Held::Low(at, half(word)));
    }

    fn high(&mut self, at: usize, register: u64, word: u64) {
        let held = match self.held(register) {
            Held::Low(low, value) => Held::Both(low, at, half(word) << 16 | value),
            _ => Held::Nothing,
        };
        self.hold(register, held);
        if let Held::Both(low, high, target) = held
            && self.image.fixed
            && self.image.contains(target)
        {
            self.halves(low, high, target, None);
        }
    }

    fn halves(&mut self, low: usize, high: usize, target: u64, base: Option<u64>) {
        if let Ok(back) = u16::try_from(high - low) {
            self.put(low, Form::Arm32(Coding::Low16), target, base);
            self.put(high, Form::Arm32(Coding::High16 { back }), target, base);
        }
    }

    /// What a register holds is told from `base`.
    fn add(&mut self, register: u64, base: u64) {
        let target = |value: u64| value.wrapping_add(base) & 0xffff_ffff;
        match self.held(register) {
            Held::Word(place) => {
                let target = self.word(place).map_or(0, target);
                if self.image.contains(target) {
                    self.put(place, Form::Add32, target, Some(base));
                }
            }
            Held::Both(low, high, value) if self.image.contains(target(value)) => {
                self.halves(low, high, target(value), Some(base));
            }
            _ => {}
        }
    }

    /// Looks at an instruction of Thumb, and says how many bytes it has.
    fn thumb(&mut self, at: usize, address: u64) -> usize {
        let Some(first) = u16_at(&self.bytes[..self.to], at).map(u64::from) else { return 2 };
        let after = address.wrapping_add(4);
        if first < 0xe800 {
            if first & 0xf800 == 0x4800 {
                self.load(first >> 8 & 7, (after & !3).wrapping_add((first & 0xff) << 2));
            } else if first & 0xff78 == 0x4478 {
                self.add(first & 7 | first >> 4 & 8, after);
            }
            return 2;
        }
        let Some(word) = self.word(at) else { return 4 };
        let second = word >> 16;
        let register = second >> 8 & 15;
        if first & 0xf800 == 0xf000 && second & 0x8000 != 0 {
            match second & 0x5000 {
                0x4000 if second & 1 != 0 => {}
                0 if first >> 6 & 15 >= 14 => {}
                0 => self.branch(at, address, word, Coding::Conditional),
                _ => self.branch(at, address, word, Coding::Branch),
            }
        } else if first & 0xfbf0 == 0xf240 && second & 0x8000 == 0 {
            self.low(at, register, word);
        } else if first & 0xfbf0 == 0xf2c0 && second & 0x8000 == 0 {
            self.high(at, register, word);
        } else if first & 0xff7f == 0xf85f {
            let distance = second & 0xfff;
            let distance = if first & 0x80 == 0 { distance.wrapping_neg() } else { distance };
            self.load(second >> 12, (after & !3).wrapping_add(distance));
        }
        4
    }

    /// Looks at an instruction of ARM.
    fn arm(&mut self, at: usize, address: u64) -> usize {
        let Some(word) = self.word(at) else { return 4 };
        let (after, register, other) = (address.wrapping_add(8), word >> 12 & 15, word & 15);
        if word >> 25 & 7 == 5 {
            self.branch(at, address, word, Coding::Word);
        } else if word & 0x0f7f_0000 == 0x051f_0000 {
            let distance = word & 0xfff;
            let distance = if word & 0x80_0000 == 0 { distance.wrapping_neg() } else { distance };
            self.load(register, after.wrapping_add(distance));
        } else if word & 0x0fff_0ff0 == 0x008f_0000 || word & 0x0fff_0ff0 == 0x079f_0000 {
            self.add(other, after);
        } else if word & 0x0ff0_0fff == 0x0080_000f {
            self.add(word >> 16 & 15, after);
        } else if word & 0xfff0_0000 == 0xe300_0000 {
            self.low(at, register, word);
        } else if word & 0xfff0_0000 == 0xe340_0000 {
            self.high(at, register, word);
        } else if let (0xe28f_c600, Some(second), Some(last)) =
            (word & !0xff, self.word(at + 4), self.word(at + 8))
            && let Some(target) = jumps_to([word, second, last], address)
            && self.image.contains(target)
        {
            for (place, coding) in [Coding::First8, Coding::Second8, Coding::Last12].into_iter().enumerate() {
                self.put(at + 4 * place, Form::Arm32(coding), target, Some(address));
            }
        }
        4
    }
}
