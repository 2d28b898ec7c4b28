//! WebAssembly modules: numbers of variable length, opened to a fixed one.
//!
//! Calls have numbers of functions, constants and loads have addresses, all as LEB128, as long as the number is large: where a function or a
//! datum was put in, those behind it shift, and so does what stands behind a number that got longer. The opened form has the same in the same
//! order, numbers of more than one byte in four or eight ([`side`]); lengths of sections and functions are left out, they follow. What a linker split to leave
//! out zeros stands as it is in memory ([`data`]). So addresses stand at places that stay, and can be relocated ([`crate::engine::elf`]).
//!
//! Opening, closing and looking for addresses are one walk ([`code`]) over a [`Side`]. A function or section with anything that is not known here
//! stands in the form as it is.

mod code;
mod data;
#[cfg(any(test, fuzzing))]
pub mod sample;
mod side;
#[cfg(test)]
mod tests;

pub(crate) use code::{elements, walk};
pub(crate) use data::pieces;
pub(crate) use side::{Number, Side, What, in_form};

use super::MAX_OPENED_BYTES;
use crate::engine::EngineError;
use side::{Closer, Opener};
use std::io::Write;

const MAGIC: &[u8; 4] = b"\0asm";
const VERSION: [u8; 4] = [1, 0, 0, 0];
/// What a form has in the place of the version.
const OPENED: [u8; 4] = [1, 0, 0, 0xf5];
/// Magic and version.
const HEAD_BYTES: usize = 8;

/// Contents up to this size are opened: to close one takes memory of its size.
pub(super) const MAX_CONTENT_BYTES: u64 = if cfg!(fuzzing) { 1 << 20 } else { 64 << 20 };

/// Of a section that is opened, beside its number.
const IS_OPEN: u8 = 0x80;
/// Stands behind the last section.
const END: u8 = 0x40;
/// What stands behind [`END`]: where in the form functions and data begin and end.
const PLACES_BYTES: usize = 24;

const ELEMENTS: u8 = 9;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// Whether a content begins as a module, or an opened form of one.
pub(super) fn begins(bytes: &[u8]) -> bool {
    let version = bytes.get(MAGIC.len()..HEAD_BYTES);
    bytes.starts_with(MAGIC) && (version == Some(&VERSION) || version == Some(&OPENED))
}

/// Where in a form the parts are that may have addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// The functions, from the first one to behind the last one.
    pub(crate) code: (usize, usize),
    /// The section of elements.
    pub(crate) elements: (usize, usize),
    /// What [`data::pieces`] reads.
    pub(crate) data: (usize, usize),
}

/// Those of an opened form; none of anything else.
pub(crate) fn places(form: &[u8]) -> Option<Places> {
    if !form.starts_with(MAGIC) || form.get(MAGIC.len()..HEAD_BYTES) != Some(&OPENED) {
        return None;
    }
    let table = form.len().checked_sub(PLACES_BYTES)?;
    let place = |at: usize| usize::try_from(super::u32_at(form, table + 4 * at)?).ok();
    let range = |at: usize| {
        let (start, end) = (place(at)?, place(at + 1)?);
        (start <= end && end <= table).then_some((start, end))
    };
    Some(Places { code: range(0)?, elements: range(2)?, data: range(4)? })
}

/// Writes the opened form of `content`; how many bytes it has. `None`, and something of no use written, where it has none, or one of more
/// than `limit` bytes.
///
/// # Errors
/// [`EngineError::Output`].
pub(super) fn open(content: &[u8], limit: u64, out: &mut dyn Write) -> Result<Option<u64>, EngineError> {
    if !content.starts_with(MAGIC)
        || content.get(MAGIC.len()..HEAD_BYTES) != Some(&VERSION)
        || content.len() as u64 > MAX_CONTENT_BYTES
    {
        return Ok(None);
    }
    let mut form = Form { out, count: 0, limit: limit.min(MAX_OPENED_BYTES) };
    form.put(&[&MAGIC[..], &OPENED].concat())?;
    let (mut rest, mut places) = (content.get(HEAD_BYTES..).unwrap_or_default(), [0u64; 6]);
    while let Some((&number, after)) = rest.split_first() {
        let mut size = Opener::new(after);
        let Some(bytes) = size.number(What::Other).and_then(|bytes| usize::try_from(bytes.value).ok()) else {
            return Ok(None);
        };
        let size_form = size.take();
        let Some((section, behind)) = size.rest().split_at_checked(bytes) else { return Ok(None) };
        rest = behind;
        let length = after.len() - size.rest().len();
        if !open_section(number, section, length, &mut places, &mut form)? {
            if number >= END {
                return Ok(None);
            }
            form.put(&[number])?;
            form.put(&size_form)?;
            form.put(section)?;
        }
        if form.count > form.limit {
            return Ok(None);
        }
    }
    form.put(&[END])?;
    for place in places {
        let Ok(place) = u32::try_from(place) else { return Ok(None) };
        form.put(&place.to_le_bytes())?;
    }
    Ok((form.count <= form.limit).then_some(form.count))
}

/// What a form is written to.
struct Form<'o> {
    out: &'o mut dyn Write,
    count: u64,
    limit: u64,
}

impl Form<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.count += bytes.len() as u64;
        self.out.write_all(bytes).map_err(EngineError::Output)
    }
}

/// Writes the form of a section, whose size is told in `length` bytes; whether it has one.
fn open_section(
    number: u8,
    section: &[u8],
    length: usize,
    places: &mut [u64; 6],
    form: &mut Form<'_>,
) -> Result<bool, EngineError> {
    let Some(length) = side::surplus(length, section.len()) else { return Ok(false) };
    let head = [number | IS_OPEN, length];
    match number {
        CODE => {
            let mut side = Opener::new(section);
            let Some(count) = side.number(What::Other) else { return Ok(false) };
            if !code::are_bodies(side.rest(), count.value) {
                return Ok(false);
            }
            form.put(&head)?;
            form.put(&side.take())?;
            places[0] = form.count;
            for _ in 0..count.value {
                let opened = code::open_body(&mut side);
                form.put(&opened)?;
                if form.count > form.limit {
                    break;
                }
            }
            places[1] = form.count;
        }
        ELEMENTS => {
            let mut side = Opener::new(section);
            if elements(&mut side).is_none() || !side.rest().is_empty() {
                return Ok(false);
            }
            form.put(&head)?;
            places[2] = form.count;
            form.put(&side.take())?;
            places[3] = form.count;
        }
        DATA => {
            let Some(segments) = data::Segments::parse(section) else { return Ok(false) };
            form.put(&head)?;
            places[4] = form.count;
            segments.open(section, &mut |bytes| form.put(bytes))?;
            places[5] = form.count;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The content whose opened form is `form`, of at most `limit` bytes.
///
/// # Errors
/// [`EngineError::Member`].
pub(super) fn close(form: &[u8], limit: u64) -> Result<Vec<u8>, EngineError> {
    let mut content = [&MAGIC[..], &VERSION].concat();
    let limit = usize::try_from(limit.min(MAX_CONTENT_BYTES)).unwrap_or(usize::MAX);
    let mut side = Closer::new(form.get(HEAD_BYTES..).unwrap_or_default(), limit);
    let at = |side: &Closer<'_>| (form.len() - side.rest().len()) as u64;
    loop {
        let number = side.input().ok_or_else(|| EngineError::member(at(&side), "a form without an end"))?;
        if number == END {
            break;
        }
        close_section(number, &mut side, &mut content, limit)
            .ok_or_else(|| EngineError::member(at(&side), "a section that does not close"))?;
        if content.len() > limit {
            return Err(EngineError::member(at(&side), "it makes more than the length of the content"));
        }
    }
    match side.rest().len() == PLACES_BYTES {
        true => Ok(content),
        false => Err(EngineError::member(at(&side), "more or less than places behind the end")),
    }
}

fn close_section(number: u8, side: &mut Closer<'_>, content: &mut Vec<u8>, limit: usize) -> Option<()> {
    if number < IS_OPEN {
        let size = side.number(What::Other)?;
        side.bytes(usize::try_from(size.value).ok()?)?;
        content.push(number);
        content.append(&mut side.take());
        return Some(());
    }
    let length = side.input()?;
    let number = number ^ IS_OPEN;
    match number {
        CODE => {
            let count = side.number(What::Other)?;
            for _ in 0..count.value {
                code::close_body(side)?;
            }
        }
        ELEMENTS => elements(side)?,
        DATA => data::close(side, limit)?,
        _ => return None,
    }
    let section = side.take();
    content.push(number);
    side::put_length(content, section.len(), length)?;
    content.extend_from_slice(&section);
    Some(())
}
