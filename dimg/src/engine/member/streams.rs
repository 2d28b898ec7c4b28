//! Deflate streams in contents of any kind, found by what stands around them: the headers and checks of zlib (RFC 1950) and gzip (RFC 1952).

use super::directory::Deflated;
use super::elf::Adler;
use super::inflate::{Inflated, Inflater};
use super::{
    GZIP_MAGIC, GZIP_TRAILER_BYTES, MAX_SOME_STREAMS, MAX_ZIP_MEMBER_BYTES, field_of, gzip_header, u32_at,
};
use std::io;

/// Streams of which less comes are not worth their places.
const LEAST_BYTES: u64 = 64;
/// What is inflated and gone over, all in all: so many times the content and this much more.
const MAX_FACTOR: u64 = 8;
const MORE_BYTES: u64 = 64 << 20;
/// What looking at something that is no stream takes by itself.
const TRIAL_BYTES: u64 = 512;
/// A header of gzip, the name in it included.
const MAX_HEADER_BYTES: usize = 4 << 10;

/// The streams of `content`, in order, none overlapping another. Inflates them, and where something only looks like one its beginning.
#[must_use]
pub fn find_streams(content: &[u8]) -> Vec<Deflated> {
    let (mut found, mut inflater, mut spent, mut at) = (Vec::new(), Inflater::new(), 0, 0);
    let most = (content.len() as u64).saturating_mul(MAX_FACTOR).saturating_add(MORE_BYTES);
    while let Some(next) = next_header(content, at) {
        match stream(content, next, &mut inflater, &mut spent) {
            Some(member) => {
                at = member.stream.end;
                found.push(member);
            }
            None => {
                at = next + 1;
                spent = spent.saturating_add(TRIAL_BYTES);
            }
        }
        if spent > most || found.len() == MAX_SOME_STREAMS {
            break;
        }
    }
    found
}

/// Where the next header of zlib or gzip stands.
fn next_header(content: &[u8], from: usize) -> Option<usize> {
    let is_header = |bytes: &[u8]| match *bytes {
        [0x1f, 0x8b, 8] => true,
        // A window of 32 KiB, as nearly all have, and no dictionary.
        [0x78, flags, _] => flags & 0x20 == 0 && (0x7800 + u16::from(flags)).is_multiple_of(31),
        _ => false,
    };
    content.get(from..)?.windows(GZIP_MAGIC.len()).position(is_header).map(|at| from + at)
}

/// The stream behind the header at `at`.
fn stream(content: &[u8], at: usize, inflater: &mut Inflater, spent: &mut u64) -> Option<Deflated> {
    let rest = content.get(at..)?;
    let is_gzip = rest.starts_with(GZIP_MAGIC);
    let start = at + if is_gzip { gzip_header(&rest[..rest.len().min(MAX_HEADER_BYTES)])? } else { 2 };
    let input = content.get(start..)?;
    let mut adler = Adler::new();
    let found = match is_gzip {
        true => inflater.inflate(input, MAX_ZIP_MEMBER_BYTES, spent, &mut io::sink()),
        false => inflater.inflate(input, MAX_ZIP_MEMBER_BYTES, spent, &mut adler),
    };
    let Inflated { deflated, inflated, crc } = found.ok()?;
    let end = start + usize::try_from(deflated).ok()?;
    let told = match is_gzip {
        true => {
            let length = content.get(..end + GZIP_TRAILER_BYTES).and_then(|_| u32_at(content, end + 4));
            u32_at(content, end) == Some(crc) && length == Some(field_of(inflated))
        }
        false => content.get(end..)?.starts_with(&adler.bytes()),
    };
    let sums = (crc, u32::try_from(deflated).ok()?, u32::try_from(inflated).ok()?);
    (told && inflated >= LEAST_BYTES).then_some(Deflated { stream: start..end, sums })
}
