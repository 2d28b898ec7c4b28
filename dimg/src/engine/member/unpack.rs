//! Finding what a content has deflated, and writing the opened form.

use super::bitcode;
use super::elf;
use super::fields::{Direction, Fields};
use super::inflate::{Failure, Inflated, Inflater};
use super::{
    ELF, GZIP, GZIP_TO_END, GZIP_TRAILER_BYTES, LOCAL_SIGNATURE, LocalHeader, MAX_OPENED_BYTES,
    MAX_SOME_STREAMS, MAX_ZIP_MEMBER_BYTES, RAW, RAW_TO_END, XZ, ZIP, descriptor, field_of, gzip_header,
    is_opened, is_told, may_open, u32_at, wasm, xz,
};
use crate::engine::{EngineError, varint};
use std::io::{self, Read, Write};
use std::ops::Range;

/// Members up to this size are inflated once for plan and opened form.
const SMALL_BYTES: usize = 4 << 20;

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

    /// Bytes of the opened form between the member before and its own inflated bytes.
    fn head_bytes(&self) -> usize {
        let fixed = match self.tag {
            ELF => 0,
            XZ => return xz::HEAD_BYTES,
            GZIP_TO_END => 1,
            GZIP => 5,
            _ => 10,
        };
        fixed + self.before.len()
    }

    /// Inflates the stream, which has to be the one that was found.
    fn inflate(
        &self,
        content: &[u8],
        inflater: &mut Inflater,
        out: &mut dyn Write,
    ) -> Result<(), EngineError> {
        let deflated = content.get(self.deflated()).ok_or_else(changed)?;
        match inflater.inflate(deflated, self.stream.inflated, &mut 0, out) {
            Ok(stream) if stream == self.stream => Ok(()),
            Ok(_) | Err(Failure::NotOne) => Err(changed()),
            Err(Failure::Output(error)) => Err(EngineError::Output(error)),
        }
    }
}

/// Writes an opened form of at most so many bytes, and says how many it has.
type Open = fn(&[u8], u64, &mut dyn Write) -> Result<Option<u64>, EngineError>;

/// How a content opens that has nothing compressed.
fn without_streams(content: &[u8]) -> Option<Open> {
    if bitcode::begins(content) {
        return Some(bitcode::open);
    }
    wasm::begins(content).then_some(wasm::open)
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
        if let Some(open) = without_streams(content) {
            let opened_bytes = open(content, limit, &mut io::sink()).ok()??;
            return Self::within(Vec::new(), 0..0, opened_bytes, limit);
        }
        if xz::begins(content) {
            return Self::of_xz(xz::open(content, limit, &mut io::sink()).ok()??, limit);
        }
        let mut finder = Finder::new(content, limit, None);
        finder.run();
        finder.finish()
    }

    /// As [`Plan::of`], and writes the opened form to `out` at the same time: what it has cost to inflate is not lost. Without a plan,
    /// what was written is worth nothing.
    ///
    /// # Errors
    /// [`EngineError::Output`].
    pub fn open(content: &[u8], limit: u64, out: &mut dyn Write) -> Result<Option<Self>, EngineError> {
        if !may_open(content) {
            return Ok(None);
        }
        if let Some(open) = without_streams(content) {
            let opened_bytes = open(content, limit, out)?;
            return Ok(opened_bytes.and_then(|bytes| Self::within(Vec::new(), 0..0, bytes, limit)));
        }
        if xz::begins(content) {
            let opened = xz::open(content, limit, out).map_err(EngineError::Output)?;
            return Ok(opened.and_then(|opened| Self::of_xz(opened, limit)));
        }
        if content.starts_with(elf::MAGIC) {
            // Its streams stand behind all the rest.
            let plan = Self::of(content, limit);
            plan.iter().try_for_each(|plan| plan.unpack(content, out))?;
            return Ok(plan);
        }
        let mut finder = Finder::new(content, limit, Some(Form::new(content, out)));
        finder.run();
        finder.finish_form()
    }

    /// As [`Plan::open`], but only the streams at `places`: a varint each, the bytes between it and what stands behind the one before. They
    /// may stand anywhere in any content, and become members as those of a zip file.
    ///
    /// # Errors
    /// [`EngineError::Output`].
    pub fn open_some(
        content: &[u8],
        places: &[u8],
        limit: u64,
        out: &mut dyn Write,
    ) -> Result<Option<Self>, EngineError> {
        let mut finder = Finder::new(content, limit, Some(Form::new(content, out)));
        match finder.some(places) {
            Some(()) => finder.finish_form(),
            // A member that could not be written is no reason to call the content another one.
            None => finder.form.map_or(Ok(()), |form| form.written).map(|()| None),
        }
    }

    fn of_xz(opened: xz::Opened, limit: u64) -> Option<Self> {
        let inflated = opened.bytes - xz::HEAD_BYTES as u64;
        let stream = Inflated { deflated: opened.data.len() as u64, inflated, crc: 0 };
        let member = Member { tag: XZ, before: 0..opened.data.start, stream };
        Self::within(vec![member], 0..0, opened.bytes, limit)
    }

    fn within(members: Vec<Member>, rest: Range<usize>, opened_bytes: u64, limit: u64) -> Option<Self> {
        (opened_bytes <= limit.min(MAX_OPENED_BYTES)).then_some(Self { members, rest, opened_bytes })
    }

    /// Bytes of the opened form.
    #[must_use]
    pub fn opened_bytes(&self) -> u64 {
        self.opened_bytes
    }

    /// The deflated streams of `content`, in order, and each as it is inflated in `form`, the opened form.
    pub(super) fn streams<'a>(
        &'a self,
        content: &'a [u8],
        form: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        // Fields keep their lengths, so each member's place follows from the ones before.
        let mut at = if self.is_elf() { content.len() } else { 0 };
        self.members.iter().map(move |member| {
            let start = at.saturating_add(member.head_bytes());
            at = start.saturating_add(usize::try_from(member.stream.inflated).unwrap_or(usize::MAX));
            let deflated = content.get(member.deflated()).unwrap_or_default();
            (deflated, form.get(start..at).unwrap_or_default())
        })
    }

    /// Where the members that may be zip files stand in the opened form.
    pub fn archives(&self, form: &[u8]) -> Vec<Range<usize>> {
        let mut at = 0usize;
        let ranges = self.members.iter().map(|member| {
            let start = at.saturating_add(member.head_bytes());
            at = start.saturating_add(usize::try_from(member.stream.inflated).unwrap_or(usize::MAX));
            start..at
        });
        ranges
            .filter(|range| form.get(range.clone()).is_some_and(|bytes| bytes.starts_with(LOCAL_SIGNATURE)))
            .collect()
    }

    fn is_elf(&self) -> bool {
        self.members.first().is_some_and(|member| member.tag == ELF)
    }

    /// Writes the opened form of `content`, which is the one that was looked through.
    ///
    /// # Errors
    /// [`EngineError::Output`], and [`EngineError::Member`] when the content is another one.
    pub fn unpack(&self, content: &[u8], out: &mut dyn Write) -> Result<(), EngineError> {
        if self.is_elf() {
            return self.unpack_elf(content, out);
        }
        if let Some(open) = without_streams(content) {
            return match open(content, self.opened_bytes, out)? {
                Some(bytes) if bytes == self.opened_bytes => Ok(()),
                _ => Err(changed()),
            };
        }
        if xz::begins(content) {
            return match xz::open(content, self.opened_bytes, out).map_err(EngineError::Output)? {
                Some(opened) if opened.bytes == self.opened_bytes => Ok(()),
                _ => Err(changed()),
            };
        }
        let (mut form, mut inflater) = (Form::new(content, out), Inflater::new());
        for member in &self.members {
            form.member(content, member, None, &mut inflater);
        }
        form.rest(content, self.rest.clone());
        form.written
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
        let mut inflater = Inflater::new();
        self.members.iter().try_for_each(|member| member.inflate(content, &mut inflater, out))
    }
}

/// The opened form of a content other than ELF, as it is written.
struct Form<'o> {
    out: &'o mut dyn Write,
    fields: Fields,
    is_zip: bool,
    /// Nothing is written after the first failure.
    written: Result<(), EngineError>,
}

impl<'o> Form<'o> {
    fn new(content: &[u8], out: &'o mut dyn Write) -> Self {
        Self { out, fields: Fields::new(Direction::Unpack, content), is_zip: false, written: Ok(()) }
    }

    /// Adds a member, which is inflated again unless its bytes are given.
    fn member(&mut self, content: &[u8], member: &Member, inflated: Option<&[u8]>, inflater: &mut Inflater) {
        if self.written.is_ok() {
            self.written = self.try_member(content, member, inflated, inflater);
        }
    }

    fn try_member(
        &mut self,
        content: &[u8],
        member: &Member,
        inflated: Option<&[u8]>,
        inflater: &mut Inflater,
    ) -> Result<(), EngineError> {
        let (out, output) = (&mut *self.out, EngineError::Output);
        let before = content.get(member.before.clone()).ok_or_else(changed)?;
        let inflated_bytes = field_of(member.stream.inflated).to_le_bytes();
        match member.tag {
            GZIP_TO_END => write_all(out, &[&[GZIP_TO_END], before]).map_err(output)?,
            GZIP => write_all(out, &[&[GZIP], &inflated_bytes, before]).map_err(output)?,
            tag => {
                self.is_zip = true;
                let count = field_of(before.len() as u64).to_le_bytes();
                write_all(out, &[&[RAW], &count]).map_err(output)?;
                let offset = member.before.start as u64;
                self.fields.convert(before, offset, Some(&member.stream), out).map_err(output)?;
                write_all(out, &[&[tag], &inflated_bytes]).map_err(output)?;
            }
        }
        match inflated {
            Some(inflated) => out.write_all(inflated).map_err(output),
            None => member.inflate(content, inflater, out),
        }
    }

    /// Adds what comes after the last member.
    fn rest(&mut self, content: &[u8], rest: Range<usize>) {
        if self.written.is_ok() {
            self.written = self.try_rest(content, rest);
        }
    }

    fn try_rest(&mut self, content: &[u8], rest: Range<usize>) -> Result<(), EngineError> {
        let (out, output) = (&mut *self.out, EngineError::Output);
        let offset = rest.start as u64;
        let rest = content.get(rest).ok_or_else(changed)?;
        if rest.is_empty() {
            return Ok(());
        }
        if self.is_zip {
            let count = field_of(rest.len() as u64).to_le_bytes();
            write_all(out, &[&[RAW], &count]).map_err(output)?;
            return self.fields.convert(rest, offset, None, out).map_err(output);
        }
        write_all(out, &[&[RAW_TO_END], rest]).map_err(output)
    }
}

/// The bytes of a member, as far as it is small.
#[derive(Default)]
struct Small {
    bytes: Vec<u8>,
    exceeded: bool,
}

impl Small {
    fn clear(&mut self) {
        self.bytes.clear();
        self.exceeded = false;
    }

    fn all(&self) -> Option<&[u8]> {
        (!self.exceeded).then_some(&self.bytes[..])
    }
}

impl Write for Small {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.exceeded |= self.bytes.len() + bytes.len() > SMALL_BYTES;
        if !self.exceeded {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
    /// The opened form, when it is wanted, and the bytes of the stream looked at last.
    form: Option<Form<'a>>,
    last: Small,
    inflater: Inflater,
}

impl<'a> Finder<'a> {
    fn new(content: &'a [u8], limit: u64, form: Option<Form<'a>>) -> Self {
        let (last, inflater) = (Small::default(), Inflater::new());
        Self { content, limit, spent: 0, inflated: 0, members: Vec::new(), rest: 0, form, last, inflater }
    }

    fn run(&mut self) {
        if self.content.starts_with(LOCAL_SIGNATURE) || is_opened(self.content) {
            self.zip();
        } else if self.content.starts_with(elf::MAGIC) {
            self.elf();
        } else {
            self.gzip();
        }
    }

    fn inflate(&mut self, at: usize, limit: u64) -> Option<Inflated> {
        let mut last = std::mem::take(&mut self.last);
        last.clear();
        let stream = match self.form {
            Some(_) => self.inflate_to(at, limit, &mut last),
            None => self.inflate_to(at, limit, &mut io::sink()),
        };
        self.last = last;
        stream
    }

    fn inflate_to(&mut self, at: usize, limit: u64, out: &mut dyn Write) -> Option<Inflated> {
        // Not what the caller allows: what is opened has to depend on the content alone.
        let left = MAX_OPENED_BYTES.saturating_sub(self.spent).min(limit);
        self.inflater.inflate(self.content.get(at..)?, left, &mut self.spent, out).ok()
    }

    /// Adds a member: that of the stream looked at last, or of an ELF file.
    fn add(&mut self, member: Member) {
        self.inflated += member.stream.inflated;
        if let Some(form) = &mut self.form {
            form.member(self.content, &member, self.last.all(), &mut self.inflater);
        }
        self.members.push(member);
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
            self.add(member);
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
            self.add(Member { tag: ELF, before: start..start, stream });
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
                self.add(member);
                (self.rest, at) = (end, end);
            }
        }
    }

    /// The streams at `places`, as [`Plan::open_some`] has them; nothing where one is none.
    fn some(&mut self, mut places: &[u8]) -> Option<()> {
        while !places.is_empty() {
            let distance = usize::try_from(varint::take(&mut places)?).ok()?;
            let start = self.rest.checked_add(distance)?;
            // A piece has a length of 32 bits.
            u32::try_from(distance).ok()?;
            let stream = self.inflate(start, MAX_ZIP_MEMBER_BYTES)?;
            let mut member = Member { tag: ZIP, before: self.rest..start, stream };
            let end = member.deflated().end;
            (member.tag, self.rest) = self.descriptor(end, stream).unwrap_or((ZIP, end));
            self.add(member);
            if self.inflated > self.limit || self.members.len() > MAX_SOME_STREAMS {
                return None;
            }
        }
        Some(())
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
        let mut member = Member { tag: ZIP, before: self.rest..start, stream };
        let end = member.deflated().end;
        if !header.streamed {
            return is_told(self.content, found + 14, &stream).then_some((member, end));
        }
        let (tag, end) = self.descriptor(end, stream)?;
        member.tag = tag;
        Some((member, end))
    }

    /// The kind of member that a stream is that ends at `at` with a data descriptor behind it, and where that ends.
    fn descriptor(&self, at: usize, stream: Inflated) -> Option<(u8, usize)> {
        let (tag, bytes) = descriptor(self.content, at, &stream)?;
        Some((tag, at + bytes))
    }

    /// As [`Self::finish`], and writes what comes after the last member.
    fn finish_form(mut self) -> Result<Option<Plan>, EngineError> {
        let (content, rest, form) = (self.content, self.rest, self.form.take());
        let plan = self.finish();
        if let Some(mut form) = form.filter(|_| plan.is_some()) {
            form.rest(content, rest..content.len());
            form.written?;
        }
        Ok(plan)
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
        let piece = |member: &Member| member.head_bytes() as u64 + member.stream.inflated;
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
