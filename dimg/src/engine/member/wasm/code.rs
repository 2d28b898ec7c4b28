//! What has instructions, as the specification's appendix and the proposals of threads, exceptions, tail calls and SIMD write them: functions,
//! and elements of tables.

use super::side::{self, Closer, Opener, Side, What};

/// Of a function that stands in the form as it is, beside in how many bytes its length is told.
const AS_IT_IS: u8 = 0x80;

/// Reference types, with a type of what is referred to behind them.
const REFERENCES: [i64; 2] = [-0x1c, -0x1d];

const END: u8 = 0x0b;

/// Walks over an expression, its end included.
pub(crate) fn expression<S: Side>(side: &mut S) -> Option<()> {
    let mut depth = 0usize;
    loop {
        let opcode = side.byte()?;
        match opcode {
            // Blocks; of `try_table` with what is caught.
            0x02..=0x04 | 0x06 => {
                kind(side)?;
                depth += 1;
            }
            0x1f => {
                kind(side)?;
                catches(side)?;
                depth += 1;
            }
            END => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return Some(()),
            },
            // It ends its block.
            0x18 => {
                side.number(What::Other)?;
                depth = depth.checked_sub(1)?;
            }
            0x41 => drop(side.number(What::Constant32)?),
            0x42 => drop(side.number(What::Constant64)?),
            0x10 | 0x12 | 0xd2 => drop(side.number(What::Function)?),
            0x28..=0x3e => memory(side)?,
            _ => others(opcode, side)?,
        }
    }
}

/// What comes behind an opcode of those that do not open or close a block, or have an address.
fn others<S: Side>(opcode: u8, side: &mut S) -> Option<()> {
    match opcode {
        0x00 | 0x01 | 0x05 | 0x0a | 0x0f | 0x19..=0x1b | 0x45..=0xc4 | 0xd1 | 0xd3 | 0xd4 => Some(()),
        0x07..=0x09 | 0x0c | 0x0d | 0x14 | 0x15 | 0x20..=0x26 | 0x3f | 0x40 | 0xd5 | 0xd6 => numbers(1, side),
        0x11 | 0x13 => numbers(2, side),
        0x0e => {
            let count = side.number(What::Other)?.value;
            (0..=count).try_for_each(|_| numbers(1, side))
        }
        0x1c => {
            let count = side.number(What::Other)?.value;
            (0..count).try_for_each(|_| kind(side))
        }
        0x43 => side.bytes(4),
        0x44 => side.bytes(8),
        0xd0 => kind(side),
        0xfc => match side.number(What::Other)?.value {
            0..=7 => Some(()),
            8 | 10 | 12 | 14 => numbers(2, side),
            9 | 11 | 13 | 15..=17 => numbers(1, side),
            _ => None,
        },
        0xfd => match side.number(What::Other)?.value {
            0..=11 | 92 | 93 => memory(side),
            12 | 13 => side.bytes(16),
            21..=34 => side.bytes(1),
            84..=91 => {
                memory(side)?;
                side.bytes(1)
            }
            14..=20 | 35..=83 | 94..=275 => Some(()),
            _ => None,
        },
        0xfe => match side.number(What::Other)?.value {
            0..=2 | 16..=78 => memory(side),
            3 => side.bytes(1),
            _ => None,
        },
        _ => None,
    }
}

fn numbers<S: Side>(count: usize, side: &mut S) -> Option<()> {
    (0..count).try_for_each(|_| side.number(What::Other).map(drop))
}

/// A type of a value, a block or what is referred to.
fn kind<S: Side>(side: &mut S) -> Option<()> {
    let kind = side.number(What::Type)?;
    if REFERENCES.contains(&kind.value.cast_signed()) {
        side.number(What::Type)?;
    }
    Some(())
}

/// The operand of a load or store: alignment, which memory if it is not the first, distance.
#[inline]
fn memory<S: Side>(side: &mut S) -> Option<()> {
    let alignment = side.number(What::Other)?;
    if alignment.value & 0x40 != 0 {
        side.number(What::Other)?;
    }
    side.number(What::Offset).map(drop)
}

fn catches<S: Side>(side: &mut S) -> Option<()> {
    let count = side.number(What::Other)?.value;
    (0..count).try_for_each(|_| match side.byte()? {
        0 | 1 => numbers(2, side),
        2 | 3 => numbers(1, side),
        _ => None,
    })
}

/// Walks over a function behind its length: locals and instructions.
pub(crate) fn function<S: Side>(side: &mut S) -> Option<()> {
    let count = side.number(What::Other)?.value;
    for _ in 0..count {
        side.number(What::Other)?;
        kind(side)?;
    }
    expression(side)
}

/// Whether `bytes` are so many functions, each behind its length.
pub(super) fn are_bodies(bytes: &[u8], count: u64) -> bool {
    let mut side = Opener::new(bytes);
    let all = (0..count).try_for_each(|_| {
        let bytes = usize::try_from(side.number(What::Other)?.value).ok()?;
        side.take();
        side.rest().get(..bytes)?;
        side.skip(bytes);
        Some(())
    });
    all.is_some() && side.rest().is_empty()
}

/// The form of the next function, which is there.
pub(super) fn open_body(side: &mut Opener<'_>) -> Vec<u8> {
    let before = side.rest();
    let bytes = side.number(What::Other).and_then(|bytes| usize::try_from(bytes.value).ok()).unwrap_or(0);
    side.take();
    let content = side.rest().get(..bytes).unwrap_or_default();
    let surplus = side::surplus(before.len() - side.rest().len(), bytes).unwrap_or(0);
    side.skip(bytes);
    let mut inside = Opener::new(content);
    inside.put(surplus);
    if function(&mut inside).is_some() && inside.rest().is_empty() {
        return inside.take();
    }
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    [&[AS_IT_IS | surplus], &length[..], content].concat()
}

/// Goes on behind the next function of a form.
pub(super) fn close_body(side: &mut Closer<'_>) -> Option<()> {
    let head = side.input()?;
    let start = side.written();
    match head & AS_IT_IS {
        0 => function(side)?,
        _ => {
            let bytes = side.input_four()?;
            side.bytes(bytes)?;
        }
    }
    side.put_length_at(start, head & !AS_IT_IS)
}

/// Walks over the functions of a form, from the first on, whose `code` is that of [`super::Places`].
pub(crate) fn walk<S: Side>(side: &mut S, mut at: impl FnMut(&S) -> usize, end: usize) -> Option<()> {
    while at(side) < end {
        match side.byte()? & AS_IT_IS {
            0 => function(side)?,
            _ => {
                let [mut bytes, mut shift] = [0usize; 2];
                for _ in 0..4 {
                    bytes |= usize::from(side.byte()?) << shift;
                    shift += 8;
                }
                side.bytes(bytes)?;
            }
        }
    }
    Some(())
}

/// Walks over the section of elements.
pub(crate) fn elements<S: Side>(side: &mut S) -> Option<()> {
    let count = side.number(What::Other)?.value;
    (0..count).try_for_each(|_| {
        let flags = side.number(What::Other)?.value;
        if flags > 7 {
            return None;
        }
        if flags & 3 == 2 {
            side.number(What::Other)?;
        }
        if flags & 1 == 0 {
            expression(side)?;
        }
        match flags & 4 {
            0 if flags & 3 != 0 => side.bytes(1)?,
            4 if flags & 3 != 0 => kind(side)?,
            _ => {}
        }
        let count = side.number(What::Other)?.value;
        (0..count).try_for_each(|_| match flags & 4 {
            0 => side.number(What::Function).map(drop),
            _ => expression(side),
        })
    })
}
