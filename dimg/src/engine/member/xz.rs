//! `.xz` files of one stream with one block of LZMA2 and nothing else, as `xz` writes them: kernel modules, firmware, archives.
//! Everything but the block's data and content follows from three bytes ([`Shape`]), with which the opened form begins.
//!
//! Source: *The .xz File Format* 1.2, <https://tukaani.org/xz/xz-file-format.txt>.

use crate::engine::compress::{Lzma2Data, lzma2_by_preset};
use crate::engine::varint;
use flate2::Crc;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::ops::Range;

/// The first bytes of a file, and of its opened form.
pub(super) const MAGIC: &[u8; 6] = b"\xfd7zXZ\0";
/// Bytes of an opened form before the content.
pub const HEAD_BYTES: usize = MAGIC.len() + 3;
/// Bytes of a content, at most: it is compressed again in one go, at a few megabytes a second.
pub(super) const MAX_BYTES: u64 = if cfg!(fuzzing) { 1 << 20 } else { 16 << 20 };

/// Of 8 MiB, that of `xz -6`: memory for compressing grows with it.
const MAX_DICTIONARY: u8 = 22;
const STREAM_HEADER_BYTES: usize = 12;
const LZMA2_FILTER: u8 = 0x21;
/// Both lengths stand in a block's header.
const WITH_LENGTHS: u8 = 0xc0;

/// Whether a content, or an opened form, begins so.
pub(super) fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// What a writer of `.xz` chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// The kind of check: 0, 1, 4 or 10.
    check: u8,
    /// The dictionary's size, in the file's terms.
    pub(super) dictionary: u8,
    /// Bytes of a block's header that has both lengths; 0: there are none, and it is as short as can be.
    header: u8,
}

impl Shape {
    /// The one that a content begins with.
    fn of_content(content: &[u8]) -> Option<Self> {
        let check = *content.strip_prefix(MAGIC)?.get(1)?;
        let [size, flags, rest @ ..] = content.get(STREAM_HEADER_BYTES..)? else { return None };
        let (mut filter, header) = match *flags {
            0 => (rest, 0),
            WITH_LENGTHS => (rest, (*size).checked_add(1)?.checked_mul(4)?),
            _ => return None,
        };
        if header != 0 {
            varint::take(&mut filter)?;
            varint::take(&mut filter)?;
        }
        let &[LZMA2_FILTER, 1, dictionary, ..] = filter else { return None };
        Self { check, dictionary, header }.checked()
    }

    /// The one in an opened form.
    pub(super) fn of_form(form: &[u8]) -> Option<Self> {
        let &[check, dictionary, header, ..] = form.strip_prefix(MAGIC)? else { return None };
        Self { check, dictionary, header }.checked()
    }

    fn checked(self) -> Option<Self> {
        let known = matches!(self.check, 0 | 1 | 4 | 10)
            && self.dictionary <= MAX_DICTIONARY
            && self.header.is_multiple_of(4);
        known.then_some(self)
    }

    fn head(self) -> [u8; HEAD_BYTES] {
        let [a, b, c, d, e, f] = *MAGIC;
        [a, b, c, d, e, f, self.check, self.dictionary, self.header]
    }

    /// What stands before the data and after them in a file; none when the lengths do not fit into the header.
    pub(super) fn around(self, data_bytes: u64, sum: Sum) -> Option<(Vec<u8>, Vec<u8>)> {
        let flags = [0, self.check];
        let mut before = MAGIC.to_vec();
        before.extend_from_slice(&flags);
        before.extend_from_slice(&crc_of(&flags).to_le_bytes());
        let header = self.block_header(data_bytes, sum.bytes)?;
        before.extend_from_slice(&header);

        let check = sum.check.finish();
        let mut after = vec![0; padding(data_bytes)];
        after.extend_from_slice(&check);
        let unpadded = header.len() as u64 + data_bytes + check.len() as u64;
        let mut index = vec![0, 1];
        varint::put(&mut index, unpadded);
        varint::put(&mut index, sum.bytes);
        index.resize(index.len() + padding(index.len() as u64), 0);
        index.extend_from_slice(&crc_of(&index).to_le_bytes());
        let backward = u32::try_from(index.len() / 4 - 1).ok()?.to_le_bytes();
        let footer = [&backward[..], &flags].concat();
        after.extend_from_slice(&index);
        after.extend_from_slice(&crc_of(&footer).to_le_bytes());
        after.extend_from_slice(&footer);
        after.extend_from_slice(b"YZ");
        Some((before, after))
    }

    fn block_header(self, data_bytes: u64, content_bytes: u64) -> Option<Vec<u8>> {
        let mut header = vec![0, 0];
        if self.header != 0 {
            header[1] = WITH_LENGTHS;
            varint::put(&mut header, data_bytes);
            varint::put(&mut header, content_bytes);
        }
        header.extend_from_slice(&[LZMA2_FILTER, 1, self.dictionary]);
        let count = match self.header {
            0 => header.len() + padding(header.len() as u64),
            count => usize::from(count).checked_sub(4).filter(|count| *count >= header.len())?,
        };
        header.resize(count, 0);
        header[0] = u8::try_from(count / 4).ok()?;
        header.extend_from_slice(&crc_of(&header).to_le_bytes());
        Some(header)
    }
}

/// Length and check of a content.
pub(super) struct Sum {
    bytes: u64,
    check: Check,
}

enum Check {
    None,
    Crc32(Crc),
    Crc64(u64),
    Sha256(Box<Sha256>),
}

impl Sum {
    pub(super) fn new(shape: Shape) -> Self {
        let check = match shape.check {
            1 => Check::Crc32(Crc::new()),
            4 => Check::Crc64(!0),
            10 => Check::Sha256(Box::default()),
            _ => Check::None,
        };
        Self { bytes: 0, check }
    }

    pub(super) fn update(&mut self, content: &[u8]) {
        self.bytes += content.len() as u64;
        match &mut self.check {
            Check::None => {}
            Check::Crc32(crc) => crc.update(content),
            Check::Crc64(crc) => *crc = content.iter().fold(*crc, |crc, byte| crc64_step(crc, *byte)),
            Check::Sha256(sha) => sha.update(content),
        }
    }
}

impl Check {
    fn finish(self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Crc32(crc) => crc.sum().to_le_bytes().to_vec(),
            Self::Crc64(crc) => (!crc).to_le_bytes().to_vec(),
            Self::Sha256(sha) => sha.finalize().to_vec(),
        }
    }
}

/// A content that opens.
#[derive(Debug, Clone)]
pub(super) struct Opened {
    /// Where the block's data stand in it.
    pub(super) data: Range<usize>,
    /// Bytes of the opened form.
    pub(super) bytes: u64,
}

/// Writes the opened form of `content` to `out`; none when it has none, or one of more than `limit` bytes: then what was written is
/// worth nothing.
pub(super) fn open(content: &[u8], limit: u64, out: &mut dyn Write) -> io::Result<Option<Opened>> {
    let Some(shape) = Shape::of_content(content) else { return Ok(None) };
    let header = content.get(STREAM_HEADER_BYTES).map_or(0, |size| (usize::from(*size) + 1) * 4);
    let start = STREAM_HEADER_BYTES + header;
    let Some(rest) = content.get(start..) else { return Ok(None) };
    out.write_all(&shape.head())?;
    let most = MAX_BYTES.min(limit.saturating_sub(HEAD_BYTES as u64));
    let Some(mut data) = Lzma2Data::new(rest, shape.dictionary) else { return Ok(None) };
    let (mut sum, mut buffer) = (Sum::new(shape), vec![0; 64 << 10]);
    while let Some(count) = data.step(&mut buffer) {
        let made = buffer.get(..count).unwrap_or_default();
        sum.update(made);
        if sum.bytes > most {
            return Ok(None);
        }
        out.write_all(made)?;
    }
    let Some(data_bytes) = data.ended() else { return Ok(None) };
    let (bytes, data) = (HEAD_BYTES as u64 + sum.bytes, start..start + data_bytes);
    let around = shape.around(data_bytes as u64, sum);
    let same = around.is_some_and(|(before, after)| {
        content.get(..data.start) == Some(&before[..]) && content.get(data.end..) == Some(&after[..])
    });
    Ok(same.then_some(Opened { data, bytes }))
}

/// An upper bound of the memory that packing takes, from the bytes of the opened form: a table of hashes, trees of two numbers a byte, the
/// bytes themselves and what they become.
#[must_use]
pub fn memory(opened_bytes: u64) -> u64 {
    (20 << 20) + 10 * opened_bytes.min(MAX_BYTES)
}

/// Options of liblzma: a preset of 0 to 6 (those above differ in the dictionary alone), and whether it is an extreme one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    level: u8,
    extreme: bool,
}

const CODE: u8 = 0xc0;
const EXTREME: u8 = 0x10;

impl Preset {
    /// The number in parameters.
    #[must_use]
    pub fn code(self) -> u8 {
        CODE + self.level + if self.extreme { EXTREME } else { 0 }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        let level = code.checked_sub(CODE)?;
        let found = Self { level: level & !EXTREME, extreme: level & EXTREME != 0 };
        (found.level <= 6).then_some(found)
    }

    /// Writes the block's data of a content.
    pub(super) fn encode(self, content: &[u8], dictionary: u8, out: &mut dyn Write) -> io::Result<()> {
        lzma2_by_preset(content, u32::from(self.level), self.extreme, dictionary, out)
    }

    /// Those worth trying for a file with such a dictionary, the likeliest first.
    pub(super) fn candidates(dictionary: u8) -> Vec<Self> {
        // 256 KiB, 1, 2, 4 and 8 MiB.
        let own: &[u8] = match dictionary {
            12 => &[0],
            16 => &[6, 1],
            18 => &[6, 2],
            20 => &[4, 3, 6],
            22 => &[6, 5],
            _ => &[6],
        };
        let usual = own.iter().map(|&level| Self { level, extreme: false });
        let extreme = own.iter().take(2).map(|&level| Self { level, extreme: true });
        usual.chain(extreme).collect()
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// ECMA-182, least bit first.
const CRC64: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xc96c_5795_d787_0f42 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc64_step(crc: u64, byte: u8) -> u64 {
    let [low, ..] = crc.to_le_bytes();
    CRC64[usize::from(low ^ byte)] ^ (crc >> 8)
}

/// Zeros to a multiple of four bytes.
fn padding(bytes: u64) -> usize {
    usize::try_from(bytes.wrapping_neg() % 4).unwrap_or(0)
}
