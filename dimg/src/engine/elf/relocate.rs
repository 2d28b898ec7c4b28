//! Writing the old file with its addresses moved.

use super::image::{u32_at, u64_at};
use super::map::Shifts;
use super::scan::{Field, Form, Scan};
use super::{AddressMap, Image, Version};
use crate::engine::parallel::in_order;
use std::io::{self, Write};
use std::ops::Range;

/// One write per this many bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes `old` to `out`, as many bytes, its fields moved by `map`. A file that is not understood is written as it is.
///
/// Memory of its own is a buffer, an index of the map, the addresses of the file's jump tables and of what belongs to Go's
/// functions (at most 8 MiB each), and places of instructions (at most 16 MiB), or the fields of a block of code and records of exceptions
/// for 32-bit ARM (a few MiB for each thread).
///
/// # Errors
/// Those of writing.
pub fn relocate(old: &[u8], map: &AddressMap, version: Version, out: &mut dyn Write) -> io::Result<()> {
    relocate_on(old, map, version, 1, out)
}

/// As [`relocate`], with so many threads; the bytes are the same.
pub(crate) fn relocate_on(
    old: &[u8],
    map: &AddressMap,
    version: Version,
    threads: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(image) = Image::parse(old) else { return out.write_all(old) };
    relocate_scanned(&Scan::new(&image, version, threads), map, threads, out)
}

/// As [`relocate`], of a file that has been looked through, with so many threads. With several the new fields of some parts of the
/// file are in memory.
pub(super) fn relocate_scanned(
    scan: &Scan<'_>,
    map: &AddressMap,
    threads: usize,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut writer = Rewriter { old: scan.image.bytes, start: 0, buffer: Vec::new(), out, result: Ok(()) };
    each_moved(scan, map, threads, |offset, value, form| {
        writer.put(offset, value, form);
        writer.result.is_ok()
    });
    writer.finish()
}

/// As [`relocate_scanned`], in memory.
pub(super) fn relocated(scan: &Scan<'_>, map: &AddressMap, threads: usize) -> Vec<u8> {
    let mut new = scan.image.bytes.to_vec();
    each_moved(scan, map, threads, |offset, value, form| {
        set(&mut new, offset..offset + form.bytes(), value);
        true
    });
    new
}

/// Calls `put` with offset, new value and form of all fields that change, ascending, and maybe of some that do not; with one thread until it gives
/// false for the last one of a part.
fn each_moved(
    scan: &Scan<'_>,
    map: &AddressMap,
    threads: usize,
    mut put: impl FnMut(usize, u64, Form) -> bool,
) {
    let (image, old) = (scan.image, scan.image.bytes);
    let shifts = Shifts::new(map, image.low, image.high);
    if threads <= 1 {
        scan.run(&mut |field| {
            put(field.offset, moved(old, field, &shifts).1, field.form);
        });
        return;
    }
    let changed = |field: &Field| {
        let (old, new) = moved(old, field, &shifts);
        (new != old).then_some((field.offset, new, field.form))
    };
    let unit = |number| {
        let mut all = Vec::new();
        scan.unit(number, &mut |field| all.extend(changed(field)));
        all
    };
    in_order(threads, scan.units(), unit, |all| {
        all.into_iter().fold(true, |_, (offset, new, form)| put(offset, new, form))
    });
}

/// What stands in the field, and what is to stand there.
#[inline]
pub(super) fn moved(old: &[u8], field: &Field, shifts: &Shifts<'_>) -> (u64, u64) {
    let value = value_at(old, field.offset, field.form);
    let to = shifts.of_target(field.target);
    let by = field.base.map_or(0, |base| shifts.of_location(base));
    let shift = to.wrapping_sub(by).cast_unsigned();
    let low = |value: u64| value & 0xffff_ffff;
    let new = match field.form {
        Form::Add32 => low(value.wrapping_add(shift)),
        Form::Sub32 => low(value.wrapping_sub(shift)),
        Form::Add64 => value.wrapping_add(shift),
        Form::Entry32 if shift.cast_signed() % 24 == 0 => {
            low(value.wrapping_add((shift.cast_signed() / 24).cast_unsigned()))
        }
        Form::Word32 if shift.is_multiple_of(4) => {
            low(value.wrapping_add((shift.cast_signed() >> 2).cast_unsigned()))
        }
        Form::Block32 if shift.trailing_zeros() >= 16 => {
            low(value.wrapping_add((shift.cast_signed() >> 16).cast_unsigned()))
        }
        Form::Branch26 if shift.is_multiple_of(4) => {
            let words = value.wrapping_add((shift.cast_signed() >> 2).cast_unsigned());
            value & !0x03ff_ffff | words & 0x03ff_ffff
        }
        Form::Entry32 | Form::Word32 | Form::Block32 | Form::Branch26 => value,
        Form::Page21 => {
            let target = field.target.wrapping_add(to.cast_unsigned());
            let base = field.base.unwrap_or(0).wrapping_add(by.cast_unsigned());
            let pages = (target >> 12).wrapping_sub(base >> 12);
            value & !0x60ff_ffe0 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5
        }
        Form::Low12 { scale, .. } => {
            let bits = field.target.wrapping_add(to.cast_unsigned()) & 0xfff;
            if bits & ((1 << scale) - 1) == 0 { value & !0x003f_fc00 | bits >> scale << 10 } else { value }
        }
        Form::Arm32(coding) => {
            let target = field.target.wrapping_add_signed(to);
            coding.with(value, target, field.base.unwrap_or(0).wrapping_add_signed(by))
        }
    };
    (value, new)
}

/// What stands in a field of `bytes`, 0 where it is cut off.
#[inline]
pub(super) fn value_at(bytes: &[u8], offset: usize, form: Form) -> u64 {
    match form.bytes() {
        8 => u64_at(bytes, offset).unwrap_or(0),
        _ => u32_at(bytes, offset).unwrap_or(0).into(),
    }
}

/// Puts the value into a field of four or eight bytes, if it is there.
#[inline]
fn set(bytes: &mut [u8], field: Range<usize>, value: u64) {
    if let Some(field) = bytes.get_mut(field) {
        match (field.len(), value.to_le_bytes()) {
            (8, bytes) => field.copy_from_slice(&bytes),
            (_, [a, b, c, d, ..]) => field.copy_from_slice(&[a, b, c, d]),
        }
    }
}

/// Writes the old file in pieces, in which fields are set.
struct Rewriter<'r> {
    old: &'r [u8],
    /// Where in the old file the piece in the buffer starts: all before is written.
    start: usize,
    buffer: Vec<u8>,
    out: &'r mut dyn Write,
    result: io::Result<()>,
}

impl Rewriter<'_> {
    /// Sets a field, which lies in the file and behind those set before.
    #[inline]
    fn put(&mut self, offset: usize, value: u64, form: Form) {
        let end = offset + form.bytes();
        if end > self.start + self.buffer.len() {
            self.go_on(offset);
        }
        set(&mut self.buffer, offset.wrapping_sub(self.start)..end.wrapping_sub(self.start), value);
    }

    /// Writes all before `offset`; the piece from there on is next.
    #[cold]
    fn go_on(&mut self, offset: usize) {
        let done = self.buffer.len().min(offset - self.start);
        for part in [&self.buffer[..done], &self.old[self.start + done..offset]] {
            if self.result.is_ok() {
                self.result = self.out.write_all(part);
            }
        }
        self.start = offset;
        let end = offset.saturating_add(BUFFER_BYTES).min(self.old.len());
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.old[offset..end]);
    }

    fn finish(mut self) -> io::Result<()> {
        self.go_on(self.old.len());
        self.result
    }
}
