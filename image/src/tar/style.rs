//! A writer's style: what it takes to write a member's headers again from what they mean.
//!
//! Laid out byte by byte in `FORMAT.md`, "Styles". Decoding takes bytes from files of others and refuses what the
//! layout does not allow, so that a style has one encoding only.

use dimg::wire::{Reader, WireError, put_bytes, put_i64, put_u64, put_usize};

use super::block::{MAGIC_GNU, MAGIC_USTAR};
use super::member::MAX_PREFIXES;
use super::number::Form;
use super::pax::TimeForm;
use super::text::{Join, PLACES, Place, TRANSFORMS, Transform};

/// Bytes of an encoded style.
pub const MAX_STYLE_BYTES: usize = 4 << 10;
/// Bit in the magic's code: the header has owner names and device numbers though no one reads them.
const UNASKED_OWNER: u8 = 4;
/// Bytes of a literal in a style.
pub const MAX_LITERAL_BYTES: usize = 100;

/// How the headers of a member are written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Style {
    /// Extension headers, in order.
    pub prefixes: Vec<Prefix>,
    /// The member's own header.
    pub main: Header,
}

/// An extension header and its data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix {
    pub header: Header,
    pub body: Body,
}

/// Data of an extension header; which one goes with the type flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Pax records (`x`).
    Records(Vec<Record>),
    /// The path (`L`) or the link target (`K`), a NUL after it or not.
    Long { nul: bool },
}

/// A pax record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Record {
    /// The next of the shape's keys, with the entry's value for it.
    Kept,
    Path,
    Link,
    Uname,
    Gname,
    Uid,
    Gid,
    Size,
    Mtime(TimeForm),
}

/// A header block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    pub flag: u8,
    pub magic: [u8; 8],
    pub name: Text,
    pub mode: Number,
    pub uid: Number,
    pub gid: Number,
    pub size: Number,
    pub mtime: Number,
    pub checksum: Form,
    pub link: Text,
    /// Owner names and device numbers; always there when the magic has them.
    pub owner: Option<Owner>,
    /// The rest of the block is kept; else it is zeros, or the first part of a split name.
    pub end_kept: bool,
}

/// The fields that came with ustar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub uname: Text,
    pub gname: Text,
    pub major: Number,
    pub minor: Number,
}

/// A text field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text {
    pub source: TextSource,
    pub transform: Transform,
    pub place: Place,
}

/// Where a text comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextSource {
    /// The entry's.
    Entry,
    /// The same in every header.
    Literal(Box<[u8]>),
    /// The next kept value.
    Kept,
    /// Made from the entry's path.
    Joined(Join),
}

/// A number field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Number {
    pub source: NumberSource,
    pub form: Form,
}

/// Where a number comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumberSource {
    /// The entry's; for the size of an extension header that of its data.
    Entry,
    /// The same in every header.
    Literal(i64),
    /// The next kept value, in decimal.
    Kept,
    /// The entry's, but only the bits of this mask.
    Masked(u64),
    /// The entry's, at least zero and at most this.
    Clamped(u64),
    /// The entry's time rounded to the nearest second.
    Rounded,
}

/// Whether a header with this magic has owner names and device numbers.
pub fn has_owner(magic: &[u8; 8]) -> bool {
    magic.starts_with(b"ustar\0") || *magic == MAGIC_GNU
}

impl Style {
    /// The style in bytes.
    pub fn encode(&self) -> Box<[u8]> {
        let mut out = Vec::new();
        put_usize(&mut out, self.prefixes.len());
        for prefix in &self.prefixes {
            prefix.header.put(&mut out);
            match &prefix.body {
                Body::Records(records) => {
                    put_usize(&mut out, records.len());
                    records.iter().for_each(|record| record.put(&mut out));
                }
                Body::Long { nul } => out.push(u8::from(*nul)),
            }
        }
        self.main.put(&mut out);
        out.into()
    }

    /// The style that these bytes are.
    ///
    /// # Errors
    /// They are not one.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes, "style");
        let mut prefixes = Vec::new();
        for _ in 0..reader.count(MAX_PREFIXES, "extension headers")? {
            let header = Header::read(&mut reader)?;
            let body = match header.flag {
                b'x' => {
                    let count = reader.count(MAX_STYLE_BYTES, "records")?;
                    Body::Records((0..count).map(|_| Record::read(&mut reader)).collect::<Result<_, _>>()?)
                }
                b'L' | b'K' => Body::Long { nul: flag(&mut reader, "terminator")? },
                _ => return Err(reader.error("extension header", "type flag is none of x, L, K")),
            };
            prefixes.push(Prefix { header, body });
        }
        let main = Header::read(&mut reader)?;
        reader.end()?;
        Ok(Self { prefixes, main })
    }
}

fn flag(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, WireError> {
    match reader.byte(what)? {
        byte @ 0..=1 => Ok(byte == 1),
        _ => Err(reader.error(what, "neither 0 nor 1")),
    }
}

impl Record {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Kept => out.push(0),
            Self::Path => out.push(1),
            Self::Link => out.push(2),
            Self::Uname => out.push(3),
            Self::Gname => out.push(4),
            Self::Uid => out.push(5),
            Self::Gid => out.push(6),
            Self::Size => out.push(7),
            Self::Mtime(TimeForm::Trimmed(digits)) => out.extend([8, digits]),
            Self::Mtime(TimeForm::Fixed(digits)) => out.extend([9, digits]),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let code = reader.byte("record")?;
        Ok(match code {
            0 => Self::Kept,
            1 => Self::Path,
            2 => Self::Link,
            3 => Self::Uname,
            4 => Self::Gname,
            5 => Self::Uid,
            6 => Self::Gid,
            7 => Self::Size,
            8 | 9 => {
                let digits = reader.byte("digits of a time")?;
                if digits > 9 {
                    return Err(reader.error("digits of a time", "more than nine"));
                }
                Self::Mtime(if code == 8 { TimeForm::Trimmed(digits) } else { TimeForm::Fixed(digits) })
            }
            _ => return Err(reader.error("record", "unknown code")),
        })
    }

    /// The record's key, when it is not a kept one.
    pub fn key(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Kept => return None,
            Self::Path => b"path",
            Self::Link => b"linkpath",
            Self::Uname => b"uname",
            Self::Gname => b"gname",
            Self::Uid => b"uid",
            Self::Gid => b"gid",
            Self::Size => b"size",
            Self::Mtime(_) => b"mtime",
        })
    }
}

impl Header {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.flag);
        let unasked = if self.owner.is_some() && !has_owner(&self.magic) { UNASKED_OWNER } else { 0 };
        let code = match self.magic {
            [0, 0, 0, 0, 0, 0, 0, 0] => 0,
            MAGIC_USTAR => 1,
            MAGIC_GNU => 2,
            _ => 3,
        };
        out.push(code | unasked);
        if code == 3 {
            out.extend(self.magic);
        }
        self.name.put(out);
        for number in [&self.mode, &self.uid, &self.gid, &self.size, &self.mtime] {
            number.put(out);
        }
        out.push(self.checksum.code());
        self.link.put(out);
        if let Some(owner) = &self.owner {
            owner.uname.put(out);
            owner.gname.put(out);
            owner.major.put(out);
            owner.minor.put(out);
        }
        out.push(u8::from(self.end_kept));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let type_flag = reader.byte("type flag")?;
        let code = reader.byte("magic")?;
        let magic = match code & !UNASKED_OWNER {
            0 => [0; 8],
            1 => MAGIC_USTAR,
            2 => MAGIC_GNU,
            3 => {
                let mut magic = [0; 8];
                magic.copy_from_slice(reader.take(8, "magic")?);
                if matches!(magic, MAGIC_USTAR | MAGIC_GNU) || magic == [0; 8] {
                    return Err(reader.error("magic", "has a code of its own"));
                }
                magic
            }
            _ => return Err(reader.error("magic", "unknown code")),
        };
        let name = Text::read(reader)?;
        let mut numbers = [Number { source: NumberSource::Entry, form: Form::Nuls }; 5];
        for number in &mut numbers {
            *number = Number::read(reader)?;
        }
        let [mode, uid, gid, size, mtime] = numbers;
        let checksum = read_form(reader)?;
        let link = Text::read(reader)?;
        let unasked = code & UNASKED_OWNER != 0;
        if unasked && has_owner(&magic) {
            return Err(reader.error("magic", "owner fields are there in any case"));
        }
        let owner = match unasked || has_owner(&magic) {
            false => None,
            true => Some(Owner {
                uname: Text::read(reader)?,
                gname: Text::read(reader)?,
                major: Number::read(reader)?,
                minor: Number::read(reader)?,
            }),
        };
        let end_kept = flag(reader, "end")?;
        Ok(Self {
            flag: type_flag,
            magic,
            name,
            mode,
            uid,
            gid,
            size,
            mtime,
            checksum,
            link,
            owner,
            end_kept,
        })
    }
}

impl Text {
    /// A text that is the same in every header.
    pub fn literal(text: &[u8]) -> Self {
        Self { source: TextSource::Literal(text.into()), transform: Transform::None, place: Place::Cut }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let transform = TRANSFORMS.iter().position(|&other| other == self.transform).unwrap_or_default();
        let place = PLACES.iter().position(|&other| other == self.place).unwrap_or_default();
        let (source, literal) = match &self.source {
            TextSource::Entry => (0, None),
            TextSource::Literal(literal) => (1, Some(literal)),
            TextSource::Kept => (2, None),
            TextSource::Joined(Join::Go(literal)) => (3, Some(literal)),
            TextSource::Joined(Join::Gnu(literal)) => (4, Some(literal)),
            TextSource::Joined(Join::Libarchive(literal)) => (5, Some(literal)),
        };
        put_usize(out, source + 6 * (transform + TRANSFORMS.len() * place));
        if let Some(literal) = literal {
            put_bytes(out, literal);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        const WHAT: &str = "text";
        let code = reader.count(6 * TRANSFORMS.len() * PLACES.len() - 1, WHAT)?;
        let mut literal = || reader.bytes(MAX_LITERAL_BYTES, WHAT).map(Box::from);
        let source = match code % 6 {
            0 => TextSource::Entry,
            1 => TextSource::Literal(literal()?),
            2 => TextSource::Kept,
            3 => TextSource::Joined(Join::Go(literal()?)),
            4 => TextSource::Joined(Join::Gnu(literal()?)),
            _ => TextSource::Joined(Join::Libarchive(literal()?)),
        };
        let transform = TRANSFORMS[code / 6 % TRANSFORMS.len()];
        Ok(Self { source, transform, place: PLACES[code / 6 / TRANSFORMS.len()] })
    }
}

fn read_form(reader: &mut Reader<'_>) -> Result<Form, WireError> {
    let code = reader.byte("number form")?;
    Form::from_code(code).ok_or_else(|| reader.error("number form", "unknown code"))
}

impl Number {
    fn put(self, out: &mut Vec<u8>) {
        match self.source {
            NumberSource::Entry => out.push(0),
            NumberSource::Literal(value) => {
                out.push(1);
                put_i64(out, value);
            }
            NumberSource::Kept => out.push(2),
            NumberSource::Masked(mask) => {
                out.push(3);
                put_u64(out, mask);
            }
            NumberSource::Clamped(most) => {
                out.push(4);
                put_u64(out, most);
            }
            NumberSource::Rounded => out.push(5),
        }
        out.push(self.form.code());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        const WHAT: &str = "number";
        let source = match reader.byte(WHAT)? {
            0 => NumberSource::Entry,
            1 => NumberSource::Literal(reader.i64(WHAT)?),
            2 => NumberSource::Kept,
            3 => NumberSource::Masked(reader.u64(WHAT)?),
            4 => NumberSource::Clamped(reader.u64(WHAT)?),
            5 => NumberSource::Rounded,
            _ => return Err(reader.error(WHAT, "unknown source")),
        };
        Ok(Self { source, form: read_form(reader)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_have_one_style_and_it_has_these_bytes(bytes in prop::collection::vec(0..7u8, 0..80)) {
            if let Ok(style) = Style::decode(&bytes) {
                prop_assert_eq!(&*style.encode(), &bytes);
            }
        }
    }

    #[test]
    fn a_style_of_each_source_comes_back() {
        let form = Form::Nuls;
        let number = |source| Number { source, form };
        let text = |source| Text { source, transform: Transform::Question, place: Place::SplitFirst };
        let main = Header {
            flag: b'0',
            magic: *b"ustar\x0001",
            name: text(TextSource::Entry),
            mode: number(NumberSource::Masked(0o777)),
            uid: number(NumberSource::Clamped(1 << 18)),
            gid: number(NumberSource::Kept),
            size: number(NumberSource::Literal(-7)),
            mtime: number(NumberSource::Rounded),
            checksum: Form::Base256,
            link: text(TextSource::Kept),
            owner: Some(Owner {
                uname: Text::literal(b"root"),
                gname: text(TextSource::Joined(Join::Gnu((*b"x").into()))),
                major: number(NumberSource::Entry),
                minor: number(NumberSource::Entry),
            }),
            end_kept: true,
        };
        let old = Header { magic: [0; 8], owner: None, flag: b'L', ..main.clone() };
        let pax = Header { flag: b'x', ..main.clone() };
        let records = vec![Record::Kept, Record::Size, Record::Mtime(TimeForm::Fixed(9))];
        let style = Style {
            prefixes: vec![
                Prefix { header: old, body: Body::Long { nul: true } },
                Prefix { header: pax, body: Body::Records(records) },
            ],
            main,
        };
        let bytes = style.encode();
        assert_eq!(Style::decode(&bytes), Ok(style));
        for end in 0..bytes.len() {
            assert!(Style::decode(&bytes[..end]).is_err());
        }
    }
}
