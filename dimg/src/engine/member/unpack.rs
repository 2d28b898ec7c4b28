//! Finding what a content has deflated, and writing the opened form.

use super::elf;
use super::fields::{Direction, Fields};
use super::inflate::{Failure, Inflated, inflate};
use super::{
    DESCRIPTOR_BYTES, DESCRIPTOR_SIGNATURE, ELF, GZIP, GZIP_TO_END, GZIP_TRAILER_BYTES, LOCAL_SIGNATURE,
    LocalHeader, MAX_OPENED_BYTES, MAX_ZIP_MEMBER_BYTES, RAW, RAW_TO_END, ZIP, ZIP_DESCRIPTOR,
    ZIP_SIGNED_DESCRIPTOR, field_of, gzip_header, may_open, u32_at,
};
use crate::engine::EngineError;
use std::io::{self, Read, Write};
use std::ops::Range;

/// Deflated data of a content, and what stands before it.
#[derive(Debug, Clone)]
struct Member {
    /// The byte that begins its piece.
    tag: u8,
    /// Bytes before it that belong to no other member; for gzip the header; for ELF none.
    before: Range<usize>,
    stream: Inflated,
}

impl Member {
    fn deflated(&self) -> Range<usize> {
        let count = usize::try_from(self.stream.deflated).unwrap_or(usize::MAX);
        self.before.end..self.before.end.saturating_add(count)
    }

    /// Inflates the stream, which has to be the one that was found.
    fn inflate(&self, content: &[u8], out: &mut dyn Write) -> Result<(), EngineError> {
        let deflated = content.get(self.deflated()).ok_or_else(changed)?;
        match inflate(deflated, self.stream.inflated, &mut 0, out) {
            Ok(stream) if stream == self.stream => Ok(()),
            Ok(_) | Err(Failure::NotOne) => Err(changed()),
            Err(Failure::Output(error)) => Err(EngineError::Output(error)),
        }
    }
}

/// What of a content is deflated: the way to its opened form.
#[derive(Debug, Clone)]
pub struct Plan {
    members: Vec<Member>,
    /// Bytes after the last member.
    rest: Range<usize>,
    opened_bytes: u64,
}

impl Plan {
    /// Looks through `content`; `None` when it has nothing deflated, or its opened form has more than `limit` bytes (at most
    /// [`MAX_OPENED_BYTES`]). Inflates everything once; takes memory for the list of members.
    #[must_use]
    pub fn of(content: &[u8], limit: u64) -> Option<Self> {
        if !may_open(content) {
            return None;
        }
        let mut finder = Finder { content, limit, spent: 0, inflated: 0, members: Vec::new(), rest: 0 };
        if content.starts_with(LOCAL_SIGNATURE) {
            finder.zip()
        } else if content.starts_with(elf::MAGIC) {
            finder.elf()
        } else {
            finder.gzip()
        }
        finder.finish()
    }

    fn within(members: Vec<Member>, rest: Range<usize>, opened_bytes: u64, limit: u64) -> Option<Self> {
        (opened_bytes <= limit.min(MAX_OPENED_BYTES)).then_some(Self { members, rest, opened_bytes })
    }

    /// Bytes of the opened form.
    #[must_use]
    pub fn opened_bytes(&self) -> u64 {
        self.opened_bytes
    }

    /// The deflated streams of `content`, in order, and how many bytes each has inflated.
    pub(super) fn streams<'a>(&'a self, content: &'a [u8]) -> impl Iterator<Item = (&'a [u8], u64)> {
        self.members
            .iter()
            .map(|member| (content.get(member.deflated()).unwrap_or_default(), member.stream.inflated))
    }

    /// Writes the opened form of `content`, which is the one that was looked through.
    ///
    /// # Errors
    /// [`EngineError::Output`], and [`EngineError::Member`] when the content is another one.
    pub fn unpack(&self, content: &[u8], out: &mut dyn Write) -> Result<(), EngineError> {
        let output = EngineError::Output;
        if self.members.first().is_some_and(|member| member.tag == ELF) {
            return self.unpack_elf(content, out);
        }
        let mut fields = Fields::new(Direction::Unpack);
        let mut is_zip = false;
        for member in &self.members {
            let before = content.get(member.before.clone()).ok_or_else(changed)?;
            let inflated = field_of(member.stream.inflated).to_le_bytes();
            match member.tag {
                GZIP_TO_END => write_all(out, &[&[GZIP_TO_END], before]).map_err(output)?,
                GZIP => write_all(out, &[&[GZIP], &inflated, before]).map_err(output)?,
                tag => {
                    is_zip = true;
                    let count = field_of(before.len() as u64).to_le_bytes();
                    write_all(out, &[&[RAW], &count]).map_err(output)?;
                    fields
                        .convert(before, member.before.start as u64, Some(&member.stream), out)
                        .map_err(output)?;
                    write_all(out, &[&[tag], &inflated]).map_err(output)?;
                }
            }
            member.inflate(content, out)?;
        }
        let rest = content.get(self.rest.clone()).ok_or_else(changed)?;
        if rest.is_empty() {
            return Ok(());
        }
        if is_zip {
            let count = field_of(rest.len() as u64).to_le_bytes();
            write_all(out, &[&[RAW], &count]).map_err(output)?;
            return fields.convert(rest, self.rest.start as u64, None, out).map_err(output);
        }
        write_all(out, &[&[RAW_TO_END], rest]).map_err(output)
    }

    fn unpack_elf(&self, content: &[u8], out: &mut dyn Write) -> Result<(), EngineError> {
        let mut at = 0;
        for member in &self.members {
            let deflated = member.deflated();
            let before = content.get(at..deflated.start).ok_or_else(changed)?;
            out.write_all(before).map_err(EngineError::Output)?;
            at = deflated.end.saturating_add(elf::CHECK_BYTES);
            let zeros = (at - deflated.start) as u64;
            io::copy(&mut io::repeat(0).take(zeros), out).map_err(EngineError::Output)?;
        }
        let rest = content.get(at..).ok_or_else(changed)?;
        out.write_all(rest).map_err(EngineError::Output)?;
        self.members.iter().try_for_each(|member| member.inflate(content, out))
    }
}

fn changed() -> EngineError {
    EngineError::member(0, "the content is not the one that was looked through")
}

fn write_all(out: &mut dyn Write, parts: &[&[u8]]) -> io::Result<()> {
    parts.iter().try_for_each(|part| out.write_all(part))
}

/// Looks through a content.
struct Finder<'a> {
    content: &'a [u8],
    limit: u64,
    /// Bytes inflated, those of streams that are none too; and bytes deflated of what did not become a member, which another
    /// may go over again.
    spent: u64,
    /// Bytes of the members inflated.
    inflated: u64,
    members: Vec<Member>,
    /// Where the last member ends.
    rest: usize,
}

impl Finder<'_> {
    fn inflate(&mut self, at: usize, limit: u64) -> Option<Inflated> {
        self.inflate_to(at, limit, &mut io::sink())
    }

    fn inflate_to(&mut self, at: usize, limit: u64, out: &mut dyn Write) -> Option<Inflated> {
        // Not what the caller allows: what is opened has to depend on the content alone.
        let left = MAX_OPENED_BYTES.saturating_sub(self.spent).min(limit);
        inflate(self.content.get(at..)?, left, &mut self.spent, out).ok()
    }

    fn gzip(&mut self) {
        while self.inflated <= self.limit
            && let Some(count) = gzip_header(&self.content[self.rest..])
        {
            let before = self.rest..self.rest + count;
            let Some(stream) = self.inflate(before.end, u64::from(u32::MAX)) else { return };
            let mut member = Member { tag: GZIP, before, stream };
            let trailer = member.deflated().end;
            let good = u32_at(self.content, trailer) == Some(stream.crc)
                && u32_at(self.content, trailer + 4) == Some(field_of(stream.inflated));
            if !good {
                return;
            }
            self.rest = trailer + GZIP_TRAILER_BYTES;
            if self.rest == self.content.len() {
                member.tag = GZIP_TO_END;
            }
            self.inflated += stream.inflated;
            self.members.push(member);
        }
    }

    /// All streams of sections, or none: how many there are is not told.
    fn elf(&mut self) {
        for found in elf::streams(self.content).unwrap_or_default() {
            let start = found.deflated.start;
            let mut check = elf::Adler::new();
            let stream = self.inflate_to(start, found.inflated, &mut check).filter(|stream| {
                stream.inflated == found.inflated
                    && stream.deflated == found.deflated.len() as u64
                    && found.check(self.content) == Some(&check.bytes()[..])
            });
            let Some(stream) = stream else {
                self.members.clear();
                return;
            };
            self.inflated += stream.inflated;
            self.members.push(Member { tag: ELF, before: start..start, stream });
        }
    }

    fn zip(&mut self) {
        let mut at = 0;
        while self.inflated <= self.limit
            && let Some(found) = self.next_local(at)
        {
            let Some(header) = LocalHeader::parse(&self.content[found..]) else {
                at = found + 1;
                continue;
            };
            at = found + header.bytes;
            if !header.deflated {
                continue;
            }
            let Some(stream) = self.inflate(at, MAX_ZIP_MEMBER_BYTES) else { continue };
            let member = self.zip_member(found, header, stream);
            if member.is_none() {
                self.spent = self.spent.saturating_add(stream.deflated);
            }
            if let Some((member, end)) = member {
                self.inflated += member.stream.inflated;
                self.members.push(member);
                (self.rest, at) = (end, end);
            }
        }
    }

    fn next_local(&self, mut at: usize) -> Option<usize> {
        loop {
            at += self.content.get(at..)?.iter().position(|byte| *byte == LOCAL_SIGNATURE[0])?;
            if self.content.get(at..at + 4)? == LOCAL_SIGNATURE {
                return Some(at);
            }
            at += 1;
        }
    }

    /// The member whose header stands at `found`, and where it ends; `None` when it has to stay as it is.
    fn zip_member(&self, found: usize, header: LocalHeader, stream: Inflated) -> Option<(Member, usize)> {
        let start = found + header.bytes;
        // A piece has a length of 32 bits.
        u32::try_from(start - self.rest).ok()?;
        let fits = |at: usize| {
            u32_at(self.content, at) == Some(stream.crc)
                && u32_at(self.content, at + 4).map(u64::from) == Some(stream.deflated)
                && u32_at(self.content, at + 8).map(u64::from) == Some(stream.inflated)
        };
        let mut member = Member { tag: ZIP, before: self.rest..start, stream };
        let end = member.deflated().end;
        if !header.streamed {
            return fits(found + 14).then_some((member, end));
        }
        let signed = self.content.get(end..end + 4).is_some_and(|bytes| bytes == DESCRIPTOR_SIGNATURE);
        if signed && fits(end + 4) {
            member.tag = ZIP_SIGNED_DESCRIPTOR;
            return Some((member, end + 4 + DESCRIPTOR_BYTES));
        }
        member.tag = ZIP_DESCRIPTOR;
        fits(end).then_some((member, end + DESCRIPTOR_BYTES))
    }

    fn finish(self) -> Option<Plan> {
        if self.members.is_empty() {
            return None;
        }
        if self.members.iter().any(|member| member.tag == ELF) {
            let opened_bytes = self.content.len() as u64 + self.inflated;
            return Plan::within(self.members, 0..0, opened_bytes, self.limit);
        }
        let rest = self.rest..self.content.len();
        let piece = |member: &Member| match member.tag {
            GZIP_TO_END => 1 + member.before.len() as u64 + member.stream.inflated,
            GZIP => 5 + member.before.len() as u64 + member.stream.inflated,
            _ => 10 + member.before.len() as u64 + member.stream.inflated,
        };
        let zip = self.members.iter().any(|member| member.tag >= ZIP);
        let end = match (rest.len() as u64, zip) {
            (0, _) => 0,
            (count, true) => 5 + u64::from(u32::try_from(count).ok()?),
            (count, false) => 1 + count,
        };
        let opened_bytes = self.members.iter().map(piece).sum::<u64>() + end;
        Plan::within(self.members, rest, opened_bytes, self.limit)
    }
}
