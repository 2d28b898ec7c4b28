//! The style that explains a member's headers.
//!
//! Each field is explained on its own, by the first source and form that give its bytes; what none gives is kept as a
//! value of the entry. The caller writes the headers again and compares: nothing here has to be right for the tar to
//! come back, only for it to come back without an exception.

use std::ops::Range;

use dimg::index::Entry;

use super::block::{
    BLOCK, CHECKSUM, END, FLAG, Flavour, GID, GNAME, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, SIZE, UID,
    UNAME, V7_END, checksums, number, trimmed,
};
use super::build::{record_value, whole_text};
use super::member::{Block, Member};
use super::number::Form;
use super::pax::{Record as PaxRecord, TimeForm};
use super::style::{
    Body, Header, MAX_STYLE_BYTES, Number, NumberSource, Owner, Prefix, Record, Style, Text, TextSource,
    has_owner,
};
use super::text::{Join, PLACES, Place, TRANSFORMS, Transform};

/// A key and a value that the style does not derive.
pub type KeptPair = (Box<[u8]>, Box<[u8]>);

/// A style for the member, unless its headers are beyond any.
pub fn derive(tar: &[u8], member: &Member<'_>) -> Option<Style> {
    let (main, prefixes) = member.blocks.split_last()?;
    let prefixes = prefixes.iter().map(|block| derive_prefix(tar, block, member)).collect::<Option<_>>()?;
    let main = Deriver { block: tar.get(main.at..main.at + BLOCK)?, entry: &member.entry, prefix: false };
    let style = Style { prefixes, main: main.header(i64::try_from(member.entry.size()).ok()?)? };
    (style.encode().len() <= MAX_STYLE_BYTES).then_some(style)
}

fn derive_prefix(tar: &[u8], block: &Block, member: &Member<'_>) -> Option<Prefix> {
    let deriver = Deriver { block: tar.get(block.at..block.at + BLOCK)?, entry: &member.entry, prefix: true };
    let header = deriver.header(i64::try_from(block.body.len()).ok()?)?;
    let body = match header.flag {
        b'x' => {
            Body::Records(member.records.iter().map(|record| derive_record(record, &member.entry)).collect())
        }
        _ => Body::Long { nul: tar.get(block.body.clone())?.ends_with(b"\0") },
    };
    Some(Prefix { header, body })
}

fn derive_record(record: &PaxRecord<'_>, entry: &Entry) -> Record {
    let digits =
        record.value.iter().position(|&byte| byte == b'.').map_or(0, |dot| record.value.len() - dot - 1);
    let candidates: &[Record] = match record.key {
        b"path" => &[Record::Path],
        b"linkpath" => &[Record::Link],
        b"uname" => &[Record::Uname],
        b"gname" => &[Record::Gname],
        b"uid" => &[Record::Uid],
        b"gid" => &[Record::Gid],
        b"size" => &[Record::Size],
        b"mtime" => &[
            Record::Mtime(TimeForm::Trimmed(0)),
            Record::Mtime(TimeForm::Trimmed(1)),
            Record::Mtime(TimeForm::Fixed(u8::try_from(digits.min(9)).unwrap_or(9))),
        ],
        _ => &[],
    };
    let explains =
        |candidate: &&Record| record_value(**candidate, entry).is_some_and(|value| *value == *record.value);
    candidates.iter().find(explains).copied().unwrap_or(Record::Kept)
}

struct Deriver<'a> {
    block: &'a [u8],
    entry: &'a Entry,
    /// Whether the header is an extension header.
    prefix: bool,
}

impl Deriver<'_> {
    fn header(&self, size: i64) -> Option<Header> {
        let entry = self.entry;
        let magic = *self.block[MAGIC].first_chunk()?;
        let sum = number(&self.block[CHECKSUM])?;
        if sum != checksums(self.block).0 {
            return None;
        }
        // Some write the fields of ustar into the oldest headers too, where no one reads them.
        let with_owner = has_owner(&magic) || !trimmed(&self.block[V7_END]).is_empty();
        let (name, end_kept) = self.name(with_owner);
        Some(Header {
            flag: self.block[FLAG],
            magic,
            name,
            mode: self.number(MODE, i64::from(entry.mode))?,
            uid: self.number(UID, entry.uid.cast_signed())?,
            gid: self.number(GID, entry.gid.cast_signed())?,
            size: self.size(size)?,
            mtime: self.number(MTIME, entry.mtime)?,
            checksum: Form::of(&self.block[CHECKSUM], sum)?,
            link: self.text(LINK, &entry.link),
            owner: match with_owner {
                false => None,
                true => Some(Owner {
                    uname: self.text(UNAME, &entry.uname),
                    gname: self.text(GNAME, &entry.gname),
                    major: self.number(MAJOR, entry.dev_major.cast_signed())?,
                    minor: self.number(MINOR, entry.dev_minor.cast_signed())?,
                }),
            },
            end_kept,
        })
    }

    /// The name, and whether the end of the block is kept.
    fn name(&self, with_owner: bool) -> (Text, bool) {
        let name = trimmed(&self.block[NAME]);
        let end = trimmed(&self.block[if with_owner { END } else { V7_END }]);
        let prefix = if Flavour::of(self.block) == Flavour::Ustar { end } else { &[] };
        if let Some(text) = self.placed_name(prefix, name) {
            return (text, prefix.len() != end.len());
        }
        if let Some(text) = self.placed_name(&[], name) {
            return (text, !end.is_empty());
        }
        (Text { source: TextSource::Kept, transform: Transform::None, place: Place::Cut }, !end.is_empty())
    }

    fn placed_name(&self, prefix: &[u8], name: &[u8]) -> Option<Text> {
        if self.prefix && prefix.is_empty() && name.starts_with(b"././@") {
            return Some(Text::literal(name));
        }
        for source in self.name_sources(prefix, name) {
            let found = texts(&source).find(|text| {
                let whole = whole_text(text, &self.entry.path, &self.entry.path);
                text.place.of(&whole, NAME.len()) == Some((prefix, name))
            });
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Ways in which the name may be made from the path, the usual ones first.
    fn name_sources(&self, prefix: &[u8], name: &[u8]) -> Vec<TextSource> {
        let joins = |literal: &[u8]| {
            [Join::Go(literal.into()), Join::Gnu(literal.into()), Join::Libarchive(literal.into())]
                .map(TextSource::Joined)
        };
        if !self.prefix {
            return vec![TextSource::Entry, TextSource::Joined(Join::Libarchive(Box::default()))];
        }
        let components = prefix.split(|&byte| byte == b'/').chain(name.split(|&byte| byte == b'/'));
        let inserted = components.filter(|part| part.starts_with(b"Pax") || part.starts_with(b"GNU"));
        inserted.flat_map(joins).chain([TextSource::Entry]).collect()
    }

    fn text(&self, field: Range<usize>, own: &[u8]) -> Text {
        let width = field.len();
        let value = trimmed(&self.block[field]);
        if self.prefix && value.is_empty() || value.starts_with(b"././@") {
            return Text::literal(value);
        }
        let explains = |text: &Text| text.place.of(&whole_text(text, own, &[]), width) == Some((&[], value));
        if let Some(text) = texts(&TextSource::Entry).find(explains) {
            return text;
        }
        if self.prefix || value.is_empty() {
            return Text::literal(value);
        }
        Text { source: TextSource::Kept, transform: Transform::None, place: Place::Cut }
    }

    fn size(&self, own: i64) -> Option<Number> {
        let value = number(&self.block[SIZE])?;
        if self.prefix {
            let form = Form::of(&self.block[SIZE], value)?;
            return (value == own).then_some(Number { source: NumberSource::Entry, form });
        }
        self.number(SIZE, own)
    }

    fn number(&self, field: Range<usize>, own: i64) -> Option<Number> {
        let value = number(&self.block[field.clone()])?;
        let form = Form::of(&self.block[field.clone()], value)?;
        let rounded = own.saturating_add(i64::from(self.entry.mtime_nsec >= 500_000_000));
        let most = form.most(field.len()).unwrap_or(i64::MAX);
        let clamped = own > value && value >= 0 && value.checked_add(1).is_some_and(|next| next & value == 0);
        let masked = |mask: i64| mask != i64::MAX && own & mask == value;
        let source = match value {
            0 if self.prefix => NumberSource::Literal(0),
            _ if value == own => NumberSource::Entry,
            _ if field == MTIME && value == rounded => NumberSource::Rounded,
            0 => NumberSource::Literal(0),
            _ if clamped && (self.prefix && field != MODE || value == most) => {
                NumberSource::Clamped(value.unsigned_abs())
            }
            _ if self.prefix && field == MODE && masked(0o777) => NumberSource::Masked(0o777),
            _ if self.prefix && field == MODE && masked(0o7777) => NumberSource::Masked(0o7777),
            _ if self.prefix && field != MTIME => NumberSource::Literal(value),
            _ if !self.prefix && masked(most) => NumberSource::Masked(most.unsigned_abs()),
            _ => NumberSource::Kept,
        };
        Some(Number { source, form })
    }
}

/// Every transform and place of a source, the usual ones first.
fn texts(source: &TextSource) -> impl Iterator<Item = Text> {
    let pairs = PLACES.into_iter().flat_map(|place| TRANSFORMS.map(|transform| (place, transform)));
    pairs.map(|(place, transform)| Text { source: source.clone(), transform, place })
}

/// The values of the member that the style keeps, with their keys; `None` when the style is of other headers.
pub fn kept_values(tar: &[u8], member: &Member<'_>, style: &Style) -> Option<Vec<KeptPair>> {
    let mut kept = Vec::new();
    if style.prefixes.len() + 1 != member.blocks.len() {
        return None;
    }
    let headers = style.prefixes.iter().map(|prefix| (&prefix.header, Some(&prefix.body)));
    for ((header, body), block) in headers.chain([(&style.main, None)]).zip(&member.blocks) {
        header_values(tar.get(block.at..block.at + BLOCK)?, header, &mut kept)?;
        if let Some(Body::Records(records)) = body {
            if records.len() != member.records.len() {
                return None;
            }
            for (record, written) in records.iter().zip(&member.records) {
                match record.key() {
                    Some(key) if key != written.key => return None,
                    Some(_) => {}
                    None => kept.push((written.key.into(), written.value.into())),
                }
            }
        }
    }
    Some(kept)
}

fn header_values(block: &[u8], header: &Header, kept: &mut Vec<KeptPair>) -> Option<()> {
    let mut values = Values { block, kept };
    values.text(&header.name, NAME, b"=name");
    values.number(header.mode, MODE, b"=mode")?;
    values.number(header.uid, UID, b"=uid")?;
    values.number(header.gid, GID, b"=gid")?;
    values.number(header.size, SIZE, b"=size")?;
    values.number(header.mtime, MTIME, b"=mtime")?;
    values.text(&header.link, LINK, b"=link");
    let mut end = V7_END;
    if let Some(owner) = &header.owner {
        values.text(&owner.uname, UNAME, b"=uname");
        values.text(&owner.gname, GNAME, b"=gname");
        values.number(owner.major, MAJOR, b"=major")?;
        values.number(owner.minor, MINOR, b"=minor")?;
        end = END;
    }
    if header.end_kept {
        kept.push((b"=end"[..].into(), trimmed(&block[end]).into()));
    }
    Some(())
}

/// Collects kept values, in the order in which [`build`](super::build::build) uses them.
struct Values<'a> {
    block: &'a [u8],
    kept: &'a mut Vec<KeptPair>,
}

impl Values<'_> {
    fn text(&mut self, text: &Text, field: Range<usize>, key: &[u8]) {
        if text.source == TextSource::Kept {
            self.kept.push((key.into(), trimmed(&self.block[field]).into()));
        }
    }

    fn number(&mut self, from: Number, field: Range<usize>, key: &[u8]) -> Option<()> {
        if from.source == NumberSource::Kept {
            self.kept.push((key.into(), number(&self.block[field])?.to_string().into_bytes().into()));
        }
        Some(())
    }
}
