//! Fields of zip files that follow from the rest: checks, lengths and offsets. In an opened form each stands as the difference,
//! by exclusive or, to what is predicted from the bytes before it: zero nearly always.
//!
//! Unpacking and packing go over the same bytes in the same order, one reading the true fields and writing differences, the
//! other the reverse; a prediction that fails costs bytes, never exactness. Records are told by their signatures, wherever they
//! stand, so that archives within archives are predicted too.

use super::inflate::Inflated;
use super::{
    CENTRAL_BYTES, CENTRAL_SIGNATURE, END_BYTES, END_SIGNATURE, LOCAL_SIGNATURE, LocalHeader, field_of,
    is_opened, u16_at, u32_at,
};
use std::collections::HashMap;
use std::io::{self, Write};

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Unpack,
    Pack,
}

/// A member that has been passed.
#[derive(Debug, Clone, Copy)]
struct Member {
    offset: u64,
    crc: u32,
    deflated: u32,
    inflated: u32,
}

/// What is known of the file so far.
#[derive(Debug)]
pub(super) struct Fields {
    direction: Direction,
    /// Whether the content is an opened form: there members whose streams were opened before follow from nothing.
    again: bool,
    /// Members by name, the last one last.
    members: HashMap<Vec<u8>, Vec<Member>>,
    /// Where the archive of the central directory under way starts.
    base: u64,
    /// Where that directory starts.
    central: Option<u64>,
    /// Fields of the piece under way: where they stand and their new bytes.
    edits: Vec<(usize, [u8; 4])>,
}

impl Fields {
    /// For a content that begins as `content` does.
    pub(super) fn new(direction: Direction, content: &[u8]) -> Self {
        let again = is_opened(content);
        Self { direction, again, members: HashMap::new(), base: 0, central: None, edits: Vec::new() }
    }

    /// Writes the bytes of `piece`, which start at `offset` of the packed content, with the fields converted. `stream` is the
    /// deflated data that follows them at once.
    pub(super) fn convert(
        &mut self,
        piece: &[u8],
        offset: u64,
        stream: Option<&Inflated>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut at = 0;
        while let Some(found) = next_record(piece, at) {
            at = found + self.record(&piece[found..], found, offset + found as u64, stream).unwrap_or(1);
        }
        let mut from = 0;
        for (at, bytes) in self.edits.drain(..) {
            out.write_all(piece.get(from..at).unwrap_or_default())?;
            out.write_all(&bytes)?;
            from = at + bytes.len();
        }
        out.write_all(piece.get(from..).unwrap_or_default())
    }

    /// Handles the record that `bytes` begin with; its length. `at` is its place in the piece, `offset` in the content.
    fn record(&mut self, bytes: &[u8], at: usize, offset: u64, stream: Option<&Inflated>) -> Option<usize> {
        if bytes.starts_with(LOCAL_SIGNATURE) {
            let header = LocalHeader::parse(bytes)?;
            let name = bytes.get(30..30 + usize::from(u16_at(bytes, 26)?))?.to_vec();
            let stream = stream.filter(|_| header.bytes == bytes.len());
            let member = match stream {
                Some(stream) => {
                    let (deflated, inflated) = (field_of(stream.deflated), field_of(stream.inflated));
                    if !header.streamed {
                        self.field(bytes, at, 14, stream.crc)?;
                        self.field(bytes, at, 18, deflated)?;
                        self.field(bytes, at, 22, inflated)?;
                    }
                    Member { offset, crc: stream.crc, deflated, inflated }
                }
                None if self.again && header.deflated => return Some(header.bytes),
                None => Member {
                    offset,
                    crc: u32_at(bytes, 14)?,
                    deflated: u32_at(bytes, 18)?,
                    inflated: u32_at(bytes, 22)?,
                },
            };
            self.members.entry(name).or_default().push(member);
            return Some(header.bytes);
        }
        if bytes.starts_with(CENTRAL_SIGNATURE) {
            let name_bytes = usize::from(u16_at(bytes, 28)?);
            let more = usize::from(u16_at(bytes, 30)?) + usize::from(u16_at(bytes, 32)?);
            let end = CENTRAL_BYTES + name_bytes + more;
            let name = bytes.get(..end)?.get(CENTRAL_BYTES..CENTRAL_BYTES + name_bytes)?;
            let member = self.members.get_mut(name).and_then(Vec::pop);
            if member.is_some() || !self.again {
                self.central.get_or_insert(offset);
            }
            if let Some(member) = member {
                self.field(bytes, at, 16, member.crc)?;
                self.field(bytes, at, 20, member.deflated)?;
                self.field(bytes, at, 24, member.inflated)?;
                let expected = field_of(member.offset.wrapping_sub(self.base));
                let found = self.field(bytes, at, 42, expected)?;
                self.base = member.offset.saturating_sub(u64::from(found));
            }
            return Some(end);
        }
        bytes.get(..END_BYTES)?;
        if let Some(start) = self.central.take() {
            self.field(bytes, at, 12, field_of(offset - start))?;
            self.field(bytes, at, 16, field_of(start.wrapping_sub(self.base)))?;
        }
        self.base = 0;
        Some(END_BYTES)
    }

    /// Converts a field; its true value.
    fn field(&mut self, record: &[u8], at: usize, field: usize, expected: u32) -> Option<u32> {
        let value = u32_at(record, field)?;
        let converted = value ^ expected;
        self.edits.push((at + field, converted.to_le_bytes()));
        Some(if self.direction == Direction::Unpack { value } else { converted })
    }
}

/// Where the next record of a zip file starts.
fn next_record(piece: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += piece.get(at..)?.iter().position(|byte| *byte == b'P')?;
        let signature = piece.get(at..at + 4)?;
        if [LOCAL_SIGNATURE, CENTRAL_SIGNATURE, END_SIGNATURE].iter().any(|known| signature == *known) {
            return Some(at);
        }
        at += 1;
    }
}
