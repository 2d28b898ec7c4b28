//! Tables of ELF files for 32-bit ARM.

use super::coding::{Coding, signed};
use super::image::{Image, u32_at};
use super::scan::{Field, Form, Sink};
use super::tables::{Region, RegionKind, absolute, extent};

/// Records beyond so many are left as they are.
const MAX_RECORDS: usize = if cfg!(fuzzing) { 1 << 8 } else { 1 << 20 };

/// Entries of 8 bytes: place, symbol and kind; addends are in place.
pub(super) fn relocations(image: &Image<'_>, region: &Region, symbols: Option<u64>, sink: &mut Sink<'_>) {
    for at in (region.start..region.end).step_by(8) {
        let (Some(place), Some(info)) = (image.word_at(at), image.word_at(at + 4)) else { break };
        absolute(image, at, place, sink);
        let symbol = info >> 8;
        if let Some(base) = symbols.filter(|_| symbol != 0) {
            let target = base.wrapping_add(symbol * 16);
            sink.put(&Field { offset: at + 4, form: Form::Arm32(Coding::Symbol), target, base: Some(base) });
        }
    }
}

/// Entries of 16 bytes: name, value, size, kinds, section.
pub(super) fn symbols(image: &Image<'_>, region: &Region, strings: Option<u64>, sink: &mut Sink<'_>) {
    for at in (region.start..region.end).step_by(16) {
        let [name, value, length, kinds] = [0, 4, 8, 12].map(|place| image.word_at(at + place));
        let (Some(name), Some(value), Some(length), Some(kinds)) = (name, value, length, kinds) else {
            break;
        };
        if let Some(base) = strings.filter(|_| name != 0) {
            let target = base.wrapping_add(name);
            sink.put(&Field { offset: at, form: Form::Add32, target, base: Some(base) });
        }
        let (kind, section) = (kinds & 15, kinds >> 16);
        if section != 0 && section != 0xfff1 && kind != 6 {
            absolute(image, at + 4, value, sink);
            if matches!(kind, 1 | 2) {
                extent(image, at + 8, Form::Add32, value & !1, length, sink);
            }
        }
    }
}

/// A signed distance of 31 bits from the field itself.
fn near(image: &Image<'_>, offset: usize, address: u64, sink: &mut Sink<'_>) {
    if let Some(target) = named(image, offset, address) {
        sink.put(&Field { offset, form: Form::Arm32(Coding::Near31), target, base: Some(address) });
    }
}

fn named(image: &Image<'_>, offset: usize, address: u64) -> Option<u64> {
    let word = u64::from(u32_at(image.bytes, offset)?);
    let target = address.wrapping_add(signed(word, 31));
    (word >> 31 == 0 && image.contains(target)).then_some(target)
}

/// Whether nothing unwinds a function.
fn is_nothing(image: &Image<'_>, offset: usize) -> bool {
    u32_at(image.bytes, offset) == Some(1)
}

/// Pairs of a function, and what unwinds it: 1 for nothing, instructions (with the highest bit), or where it is told.
pub(super) fn unwinding(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    for at in (region.start..region.end).step_by(8) {
        let address = region.address.wrapping_add((at - region.start) as u64);
        near(image, at, address, sink);
        if !is_nothing(image, at + 4) {
            near(image, at + 4, address.wrapping_add(4), sink);
        }
    }
}

/// Records that an index points to: the routine that reads them, and what it reads.
pub(super) fn exceptions(image: &Image<'_>, region: &Region, regions: &[Region], sink: &mut Sink<'_>) {
    let is_first = |other: &&Region| other.kind == RegionKind::Exceptions;
    if regions.iter().find(is_first).is_none_or(|first| first.start != region.start) {
        return;
    }
    let mut records = Vec::new();
    for index in regions.iter().filter(|region| region.kind == RegionKind::Unwinding) {
        for at in (index.start..index.end).step_by(8).map(|at| at + 4) {
            let address = index.address.wrapping_add((at - index.start) as u64);
            if let Some(target) = named(image, at, address).filter(|_| !is_nothing(image, at)) {
                let place = target.wrapping_sub(region.address);
                let place = usize::try_from(place).ok().filter(|&place| place < region.end - region.start);
                let record = place.and_then(|place| u32::try_from(place).ok());
                records.extend(record.filter(|_| records.len() < MAX_RECORDS));
            }
        }
    }
    records.sort_unstable();
    records.dedup();
    for place in records {
        near(image, region.start + place as usize, region.address.wrapping_add(place.into()), sink);
    }
}
