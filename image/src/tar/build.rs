//! Header blocks from a style, an entry and its kept values.

use std::borrow::Cow;
use std::ops::Range;

use dimg::index::Entry;

use super::block::{
    BLOCK, CHECKSUM, END, FLAG, GID, GNAME, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, SIZE, UID, UNAME,
    V7_END, checksums,
};
use super::pax;
use super::style::{Body, Header, Number, NumberSource, Record, Style, Text, TextSource};

/// Why an entry cannot be written in a style.
pub type Misfit = &'static str;

/// Values that the style does not derive, by key, in the order of use.
pub struct Kept<'a> {
    keys: &'a [Box<[u8]>],
    values: &'a [Box<[u8]>],
}

impl<'a> Kept<'a> {
    pub fn new(keys: &'a [Box<[u8]>], values: &'a [Box<[u8]>]) -> Self {
        Self { keys, values }
    }

    fn next(&mut self) -> Result<(&'a [u8], &'a [u8]), Misfit> {
        let (Some((key, keys)), Some((value, values))) = (self.keys.split_first(), self.values.split_first())
        else {
            return Err("fewer kept values than the style has");
        };
        (self.keys, self.values) = (keys, values);
        Ok((key, value))
    }

    /// Whether all values have been used.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.keys.is_empty()
    }
}

/// Appends the header blocks of `entry`.
pub fn build(style: &Style, entry: &Entry, kept: &mut Kept<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    for prefix in &style.prefixes {
        let at = out.len();
        out.resize(at + BLOCK, 0);
        // The header's kept values come before those of the records, its size after them.
        let mut block = [0; BLOCK];
        let mut fields = Fields { entry, kept, block: &mut block };
        fields.put(&prefix.header)?;
        match &prefix.body {
            Body::Records(records) => {
                for record in records {
                    put_record(*record, entry, kept, out)?;
                }
            }
            Body::Long { nul } => {
                out.extend_from_slice(if prefix.header.flag == b'L' { &entry.path } else { &entry.link });
                out.extend_from_slice(if *nul { b"\0" } else { b"" });
            }
        }
        let bytes = out.len() - at - BLOCK;
        finish(&prefix.header, i64::try_from(bytes).map_err(|_| "size exceeds its field")?, &mut block)?;
        out[at..at + BLOCK].copy_from_slice(&block);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    let mut block = [0; BLOCK];
    let mut fields = Fields { entry, kept, block: &mut block };
    fields.put(&style.main)?;
    finish(&style.main, i64::try_from(entry.size()).map_err(|_| "size exceeds its field")?, &mut block)?;
    out.extend_from_slice(&block);
    Ok(())
}

/// Writes size and checksum.
fn finish(header: &Header, size: i64, block: &mut [u8; BLOCK]) -> Result<(), Misfit> {
    // A kept size has been written with the other kept values.
    if header.size.source != NumberSource::Kept {
        put_number(header.size, size, 0, &mut block[SIZE])?;
    }
    let sum = checksums(block).0;
    header.checksum.write(&mut block[CHECKSUM], sum).ok_or("checksum does not fit its field")
}

struct Fields<'a, 'k> {
    entry: &'a Entry,
    kept: &'a mut Kept<'k>,
    block: &'a mut [u8; BLOCK],
}

impl Fields<'_, '_> {
    fn put(&mut self, header: &Header) -> Result<(), Misfit> {
        let entry = self.entry;
        let mut prefix_bytes = self.text(&header.name, &entry.path, NAME)?;
        self.number(header.mode, i64::from(entry.mode), MODE)?;
        self.number(header.uid, entry.uid.cast_signed(), UID)?;
        self.number(header.gid, entry.gid.cast_signed(), GID)?;
        if header.size.source == NumberSource::Kept {
            self.number(header.size, 0, SIZE)?;
        }
        self.number(header.mtime, entry.mtime, MTIME)?;
        self.block[FLAG] = header.flag;
        prefix_bytes += self.text(&header.link, &entry.link, LINK)?;
        self.block[MAGIC].copy_from_slice(&header.magic);
        let end = if let Some(owner) = &header.owner {
            prefix_bytes += self.text(&owner.uname, &entry.uname, UNAME)?;
            prefix_bytes += self.text(&owner.gname, &entry.gname, GNAME)?;
            self.number(owner.major, entry.dev_major.cast_signed(), MAJOR)?;
            self.number(owner.minor, entry.dev_minor.cast_signed(), MINOR)?;
            END
        } else if prefix_bytes > 0 {
            return Err("a name is split in a header without a prefix");
        } else {
            V7_END
        };
        if header.end_kept {
            let (_, value) = self.kept.next()?;
            if prefix_bytes > 0 || value.len() > end.len() {
                return Err("the kept end of a header does not fit");
            }
            self.block[end.start..end.start + value.len()].copy_from_slice(value);
        }
        Ok(())
    }

    /// Writes a text and, for a split one, the prefix; returns the prefix's bytes.
    fn text(&mut self, text: &Text, own: &[u8], field: Range<usize>) -> Result<usize, Misfit> {
        if text.source == TextSource::Kept {
            let (_, value) = self.kept.next()?;
            if value.len() > field.len() {
                return Err("a kept text does not fit its field");
            }
            self.block[field.start..field.start + value.len()].copy_from_slice(value);
            return Ok(0);
        }
        let whole = whole_text(text, own, &self.entry.path);
        let (prefix, name) = text.place.of(&whole, field.len()).ok_or("a name does not split")?;
        self.block[field.start..field.start + name.len()].copy_from_slice(name);
        if !prefix.is_empty() {
            if field != NAME {
                return Err("a text that is not the name is split");
            }
            self.block[END.start..END.start + prefix.len()].copy_from_slice(prefix);
        }
        Ok(prefix.len())
    }

    fn number(&mut self, number: Number, own: i64, field: Range<usize>) -> Result<(), Misfit> {
        if number.source == NumberSource::Kept {
            let (_, value) = self.kept.next()?;
            let value = pax::integer(value).ok_or("a kept number is not one")?;
            return number
                .form
                .write(&mut self.block[field], value)
                .ok_or("a kept number does not fit its field");
        }
        put_number(number, own, self.entry.mtime_nsec, &mut self.block[field])
    }
}

/// A text before it is placed; a kept one is empty.
pub fn whole_text<'a>(text: &'a Text, own: &'a [u8], path: &[u8]) -> Cow<'a, [u8]> {
    let whole = match &text.source {
        TextSource::Entry => Cow::Borrowed(own),
        TextSource::Literal(literal) => Cow::Borrowed(&**literal),
        TextSource::Kept => Cow::Borrowed(&[][..]),
        TextSource::Joined(join) => Cow::Owned(join.of(path)),
    };
    text.transform.of(whole)
}

fn put_number(number: Number, own: i64, nanoseconds: u32, field: &mut [u8]) -> Result<(), Misfit> {
    let value = match number.source {
        NumberSource::Entry | NumberSource::Kept => own,
        NumberSource::Literal(value) => value,
        NumberSource::Masked(mask) => (own.cast_unsigned() & mask).cast_signed(),
        NumberSource::Clamped(most) => i64::try_from(most).map_or(own.max(0), |most| own.clamp(0, most)),
        NumberSource::Rounded => own.saturating_add(i64::from(nanoseconds >= 500_000_000)),
    };
    number.form.write(field, value).ok_or("a number does not fit its field")
}

fn put_record(record: Record, entry: &Entry, kept: &mut Kept<'_>, out: &mut Vec<u8>) -> Result<(), Misfit> {
    match record.key() {
        None => {
            let (key, value) = kept.next()?;
            pax::put_record(out, key, value);
        }
        Some(key) => {
            let value = record_value(record, entry).ok_or("a time does not fit its form")?;
            pax::put_record(out, key, &value);
        }
    }
    Ok(())
}

/// What a derived record says of `entry`; `None` for a kept one, and for a time with more digits than its form.
pub fn record_value(record: Record, entry: &Entry) -> Option<Cow<'_, [u8]>> {
    let decimal = |value: String| Cow::Owned(value.into_bytes());
    Some(match record {
        Record::Kept => return None,
        Record::Path => Cow::Borrowed(&entry.path),
        Record::Link => Cow::Borrowed(&entry.link),
        Record::Uname => Cow::Borrowed(&entry.uname),
        Record::Gname => Cow::Borrowed(&entry.gname),
        Record::Uid => decimal(entry.uid.cast_signed().to_string()),
        Record::Gid => decimal(entry.gid.cast_signed().to_string()),
        Record::Size => decimal(entry.size().to_string()),
        Record::Mtime(form) => decimal(pax::put_time(entry.mtime, entry.mtime_nsec, form)?),
    })
}
