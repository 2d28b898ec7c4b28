//! Making a content from its opened form.

use super::bitcode;
use super::elf;
use super::fields::{Direction, Fields};
use super::inflate::Inflated;
use super::parameters::{Next, Reader};
use super::{
    DESCRIPTOR_SIGNATURE, GZIP, GZIP_TO_END, MAX_OPENED_BYTES, MAX_ZIP_MEMBER_BYTES, RAW, RAW_TO_END, ZIP,
    ZIP_DESCRIPTOR, ZIP_SIGNED_DESCRIPTOR, field_of, gzip_header, inside, u32_at, wasm, xz,
};
use crate::engine::EngineError;
use flate2::Crc;
use std::io::{self, Write};

/// Writes the content whose opened form is `opened` and whose streams were deflated by `parameters`
/// ([`super::Parameters::encode`]): exactly `out_bytes` bytes, whose digest the caller verifies.
///
/// Takes the memory of an encoder, and of a deflated member of a zip file.
///
/// # Errors
/// [`EngineError::Member`] when the form or the parameters are damaged or do not fit; [`EngineError::Output`].
pub fn pack(
    opened: &[u8],
    parameters: &[u8],
    out_bytes: u64,
    out: &mut dyn Write,
) -> Result<(), EngineError> {
    pack_by(opened, Reader::new(parameters), out_bytes, out)
}

/// As [`pack`], by parameters as they are read.
pub(super) fn pack_by(
    opened: &[u8],
    reader: Reader<'_>,
    out_bytes: u64,
    out: &mut dyn Write,
) -> Result<(), EngineError> {
    if opened.len() as u64 > MAX_OPENED_BYTES {
        return Err(EngineError::member(0, "the opened form is too long"));
    }
    let mut packer = Packer {
        opened,
        at: 0,
        reader,
        fields: Fields::new(Direction::Pack, inside(opened)),
        out: Counted { out, count: 0, limit: out_bytes, exceeded: false },
    };
    match packer.run() {
        Ok(()) => {}
        Err(_) if packer.out.exceeded => {
            return Err(packer.error("it makes more than the length of the content"));
        }
        Err(error) => return Err(error),
    }
    if packer.out.count != out_bytes {
        return Err(packer.error("it makes less than the length of the content"));
    }
    Ok(())
}

/// Counts what it passes on, and stops at the limit.
struct Counted<'a> {
    out: &'a mut dyn Write,
    count: u64,
    limit: u64,
    exceeded: bool,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.count + bytes.len() as u64 > self.limit {
            self.exceeded = true;
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = self.out.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

struct Packer<'a, 'o> {
    opened: &'a [u8],
    at: usize,
    reader: Reader<'a>,
    fields: Fields,
    out: Counted<'o>,
}

impl<'a> Packer<'a, '_> {
    fn error(&self, reason: &'static str) -> EngineError {
        EngineError::member(self.at as u64, reason)
    }

    fn not_deflated(&self) -> EngineError {
        self.error("a deflated stream with a preset of LZMA")
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], EngineError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.opened.get(self.at..end));
        let taken = taken.ok_or_else(|| self.error("the opened form ends within a piece"))?;
        self.at += count;
        Ok(taken)
    }

    fn rest(&mut self) -> &'a [u8] {
        let rest = self.opened.get(self.at..).unwrap_or_default();
        self.at = self.opened.len();
        rest
    }

    fn length(&mut self) -> Result<usize, EngineError> {
        let bytes = self.take(4)?;
        let length = u32_at(bytes, 0).and_then(|length| usize::try_from(length).ok());
        length.ok_or_else(|| self.error("a piece has no length"))
    }

    fn run(&mut self) -> Result<(), EngineError> {
        if self.opened.starts_with(elf::MAGIC) {
            self.elf()?;
            return self.reader.finish();
        }
        if bitcode::begins(self.opened) {
            let content = bitcode::close(self.opened, self.out.limit)?;
            self.put(&[&content])?;
            return self.reader.finish();
        }
        if wasm::begins(self.opened) {
            let content = wasm::close(self.opened, self.out.limit)?;
            self.put(&[&content])?;
            return self.reader.finish();
        }
        if xz::begins(self.opened) {
            self.xz()?;
            return self.reader.finish();
        }
        while self.at < self.opened.len() {
            let tag = self.take(1)?;
            match tag {
                [RAW_TO_END] => {
                    let rest = self.rest();
                    self.put(&[rest])?;
                }
                [tag @ (GZIP | GZIP_TO_END)] => self.gzip(*tag)?,
                [RAW] => self.zip()?,
                _ => return Err(self.error("a piece of an unknown kind")),
            }
        }
        self.reader.finish()
    }

    fn put(&mut self, parts: &[&[u8]]) -> Result<(), EngineError> {
        parts.iter().try_for_each(|part| self.out.write_all(part)).map_err(EngineError::Output)
    }

    fn gzip(&mut self, tag: u8) -> Result<(), EngineError> {
        let count = if tag == GZIP { Some(self.length()?) } else { None };
        let header = self.opened.get(self.at..).and_then(gzip_header);
        let header = header.ok_or_else(|| self.error("a gzip member without a header"))?;
        let header = self.take(header)?;
        self.put(&[header])?;
        let inflated = match count {
            Some(count) => self.take(count)?,
            None => self.rest(),
        };
        match self.reader.next()? {
            Next::Encoder(encoder) => encoder.encode(inflated, &mut self.out).map_err(EngineError::Output)?,
            Next::Verbatim(stream) => self.put(&[stream])?,
            Next::Preset(_) => return Err(self.not_deflated()),
        }
        let length = field_of(inflated.len() as u64);
        self.put(&[&crc_of(inflated).to_le_bytes(), &length.to_le_bytes()])
    }

    fn xz(&mut self) -> Result<(), EngineError> {
        let shape = xz::Shape::of_form(self.opened);
        let shape = shape.ok_or_else(|| self.error("not the head of a .xz file"))?;
        self.take(xz::HEAD_BYTES)?;
        let content = self.rest();
        if content.len() as u64 > xz::MAX_BYTES {
            return Err(self.error("what a .xz file holds is too long"));
        }
        let mut made = Vec::new();
        let data = match self.reader.next()? {
            Next::Preset(preset) => {
                preset.encode(content, shape.dictionary, &mut made).map_err(EngineError::Output)?;
                &made[..]
            }
            Next::Verbatim(data) => data,
            Next::Encoder(_) => return Err(self.error("a .xz file is not deflated")),
        };
        let mut sum = xz::Sum::new(shape);
        sum.update(content);
        let around = shape.around(data.len() as u64, sum);
        let (before, after) =
            around.ok_or_else(|| self.error("lengths that the header of a block has no room for"))?;
        self.put(&[&before, data, &after])
    }

    /// An ELF file, whose streams are behind it.
    fn elf(&mut self) -> Result<(), EngineError> {
        let bytes = usize::try_from(self.out.limit).unwrap_or(usize::MAX);
        let file = self.take(bytes)?;
        let streams =
            elf::streams(file).ok_or_else(|| self.error("an ELF file without deflated sections"))?;
        let mut written = 0;
        for stream in streams {
            let before = file.get(written..stream.deflated.start).unwrap_or_default();
            self.put(&[before])?;
            let inflated = self.take(usize::try_from(stream.inflated).unwrap_or(usize::MAX))?;
            let end = self.out.count + stream.deflated.len() as u64;
            match self.reader.next()? {
                Next::Encoder(encoder) => {
                    encoder.encode(inflated, &mut self.out).map_err(EngineError::Output)?
                }
                Next::Verbatim(stream) => self.put(&[stream])?,
                Next::Preset(_) => return Err(self.not_deflated()),
            }
            if self.out.count != end {
                return Err(self.error("a section is deflated to another length"));
            }
            let mut check = elf::Adler::new();
            check.update(inflated);
            self.put(&[&check.bytes()])?;
            written = stream.deflated.end + elf::CHECK_BYTES;
        }
        if self.at != self.opened.len() {
            return Err(self.error("more than there are streams"));
        }
        self.put(&[file.get(written..).unwrap_or_default()])
    }

    /// Bytes of a zip file, and the deflated data that may follow them.
    fn zip(&mut self) -> Result<(), EngineError> {
        let count = self.length()?;
        let before = self.take(count)?;
        let tag = match self.opened.get(self.at).copied() {
            Some(tag @ (ZIP | ZIP_DESCRIPTOR | ZIP_SIGNED_DESCRIPTOR)) => tag,
            _ => {
                let offset = self.out.count;
                return self.fields.convert(before, offset, None, &mut self.out).map_err(EngineError::Output);
            }
        };
        self.take(1)?;
        let count = self.length()?;
        if count as u64 > MAX_ZIP_MEMBER_BYTES {
            return Err(self.error("a member of a zip file is too long"));
        }
        let inflated = self.take(count)?;
        let mut made = Vec::new();
        let deflated = match self.reader.next()? {
            Next::Encoder(encoder) => {
                encoder.encode(inflated, &mut made).map_err(EngineError::Output)?;
                &made[..]
            }
            Next::Verbatim(stream) => stream,
            Next::Preset(_) => return Err(self.not_deflated()),
        };
        let stream = Inflated {
            deflated: deflated.len() as u64,
            inflated: inflated.len() as u64,
            crc: crc_of(inflated),
        };
        let offset = self.out.count;
        self.fields.convert(before, offset, Some(&stream), &mut self.out).map_err(EngineError::Output)?;
        self.put(&[deflated])?;
        if tag == ZIP_SIGNED_DESCRIPTOR {
            self.put(&[DESCRIPTOR_SIGNATURE])?;
        }
        if tag != ZIP {
            let lengths = [field_of(stream.deflated).to_le_bytes(), field_of(stream.inflated).to_le_bytes()];
            self.put(&[&stream.crc.to_le_bytes(), &lengths[0], &lengths[1]])?;
        }
        Ok(())
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
