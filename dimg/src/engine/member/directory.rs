//! What the central directories of zip files say is deflated, and the headers of other archives: for whoever chooses what of them is opened.
//! Nothing is inflated, and nothing relied on: a stream that is none does not open.

use super::inflate::Inflated;
use super::resources;
use super::{
    CENTRAL_BYTES, CENTRAL_SIGNATURE, END_BYTES, END_SIGNATURE, LOCAL_SIGNATURE, LocalHeader,
    MAX_SOME_STREAMS, u16_at, u32_at,
};
use crate::engine::varint;
use std::ops::Range;

/// The comment behind the end of a central directory has a length of 16 bits.
const MAX_COMMENT_BYTES: usize = u16::MAX as usize;
/// Zip files that are looked through, those stored in others included.
const MAX_ARCHIVES: usize = 4096;

/// CRC-32, or another check, deflated and inflated bytes.
pub type Sums = (u32, u32, u32);

/// A deflated member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deflated {
    /// Where its stream stands in the content.
    pub stream: Range<usize>,
    /// What two members have in common that are the same.
    pub sums: Sums,
}

/// What zip files begin with: a member, a script that runs them, or what those of modules of the JVM do (`.jmod`); and its run-time images.
const BEGINNINGS: [&[u8]; 4] = [LOCAL_SIGNATURE, b"#!", b"JM\x01\x00", resources::MAGIC];

/// Whether a content begins as one may of which members are known before anything is inflated.
#[must_use]
pub fn may_hold_members(content: &[u8]) -> bool {
    BEGINNINGS.iter().any(|beginning| content.starts_with(beginning))
}

/// The deflated members of the zip files at `archives`, and of those stored in them, by their places; none overlaps another.
#[must_use]
pub fn deflated(content: &[u8], archives: impl IntoIterator<Item = Range<usize>>) -> Vec<Deflated> {
    let mut archives: Vec<_> = archives.into_iter().collect();
    let (mut found, mut count) = (Vec::new(), archives.len());
    while let Some(archive) = archives.pop() {
        let bytes = content.get(archive.clone()).unwrap_or_default();
        let place = |stream: Range<usize>| archive.start + stream.start..archive.start + stream.end;
        if bytes.starts_with(resources::MAGIC) {
            let all = resources::resources(bytes).take(MAX_SOME_STREAMS);
            found.extend(all.map(|member| Deflated { stream: place(member.stream), ..member }));
        }
        for (member, header) in members(bytes).take(MAX_SOME_STREAMS) {
            if header.deflated {
                found.push(Deflated { stream: place(member.stream), ..member });
            } else if count < MAX_ARCHIVES && bytes[member.stream.clone()].starts_with(LOCAL_SIGNATURE) {
                count += 1;
                archives.push(place(member.stream));
            }
        }
        if found.len() > MAX_SOME_STREAMS {
            return Vec::new();
        }
    }
    found.sort_unstable_by_key(|member| member.stream.start);
    let mut end = 0;
    found.retain(|member| {
        let apart = member.stream.start >= end;
        end = if apart { member.stream.end } else { end };
        apart
    });
    found
}

/// Streams as [`Plan::open_some`](super::Plan::open_some) takes them. A data descriptor behind one is skipped as it is there.
#[must_use]
pub fn places<'a>(content: &[u8], streams: impl Iterator<Item = &'a Deflated>) -> Vec<u8> {
    let (mut out, mut end) = (Vec::new(), 0);
    for member in streams {
        varint::put(&mut out, member.stream.start.saturating_sub(end) as u64);
        end = member.stream.end + descriptor_bytes(content, member);
    }
    out
}

fn descriptor_bytes(content: &[u8], member: &Deflated) -> usize {
    let (crc, deflated, inflated) = member.sums;
    let stream = Inflated { deflated: deflated.into(), inflated: inflated.into(), crc };
    super::descriptor(content, member.stream.end, &stream).map_or(0, |(_, bytes)| bytes)
}

/// The members of one zip file by its central directory, with their local headers, as far as these are right.
fn members(archive: &[u8]) -> impl Iterator<Item = (Deflated, LocalHeader)> {
    let directory = directory(archive).unwrap_or_default();
    let (mut at, end) = (directory.place.start, directory.place.end);
    std::iter::from_fn(move || {
        while at < end {
            let record = archive.get(at..end).filter(|record| record.starts_with(CENTRAL_SIGNATURE))?;
            let lengths = [28, 30, 32].map(|field| u16_at(record, field).map(usize::from));
            at += CENTRAL_BYTES + lengths.into_iter().sum::<Option<usize>>()?;
            if let Some(member) = member(archive, record, directory.base) {
                return Some(member);
            }
        }
        None
    })
}

#[derive(Debug, Default)]
struct Directory {
    place: Range<usize>,
    /// What offsets count from.
    base: usize,
}

fn directory(archive: &[u8]) -> Option<Directory> {
    let from = archive.len().saturating_sub(END_BYTES + MAX_COMMENT_BYTES);
    let tail = archive.get(from..)?;
    let end = from + tail.windows(END_SIGNATURE.len()).rposition(|bytes| bytes == END_SIGNATURE)?;
    let bytes = usize::try_from(u32_at(archive, end + 12)?).ok()?;
    let offset = usize::try_from(u32_at(archive, end + 16)?).ok()?;
    let start = end.checked_sub(bytes)?;
    Some(Directory { place: start..end, base: start.checked_sub(offset)? })
}

fn member(archive: &[u8], record: &[u8], base: usize) -> Option<(Deflated, LocalHeader)> {
    let sums = (u32_at(record, 16)?, u32_at(record, 20)?, u32_at(record, 24)?);
    let offset = base.checked_add(usize::try_from(u32_at(record, 42)?).ok()?)?;
    let header = LocalHeader::parse(archive.get(offset..)?)?;
    let start = offset + header.bytes;
    let stream = start..start.checked_add(usize::try_from(sums.1).ok()?)?;
    (stream.end <= archive.len() && !stream.is_empty()).then_some((Deflated { stream, sums }, header))
}
