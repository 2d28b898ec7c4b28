//! The 512-byte header block: where its fields are, and numbers in them.
//!
//! Reading follows Go's `archive/tar`, which containerd unpacks layers with: what it refuses is refused here.

use std::ops::Range;

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// Fields of a header block.
pub const NAME: Range<usize> = 0..100;
pub const MODE: Range<usize> = 100..108;
pub const UID: Range<usize> = 108..116;
pub const GID: Range<usize> = 116..124;
pub const SIZE: Range<usize> = 124..136;
pub const MTIME: Range<usize> = 136..148;
pub const CHECKSUM: Range<usize> = 148..156;
pub const FLAG: usize = 156;
pub const LINK: Range<usize> = 157..257;
/// Magic and version.
pub const MAGIC: Range<usize> = 257..265;
pub const UNAME: Range<usize> = 265..297;
pub const GNAME: Range<usize> = 297..329;
pub const MAJOR: Range<usize> = 329..337;
pub const MINOR: Range<usize> = 337..345;
/// The first part of a long name in ustar headers.
pub const PREFIX: Range<usize> = 345..500;
/// All after the device numbers: prefix, or GNU's times and sparse map, or star's.
pub const END: Range<usize> = 345..512;
/// All after the magic in headers that know no owner names.
pub const V7_END: Range<usize> = 265..512;
/// GNU's and star's times.
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_ATIME: Range<usize> = 476..488;
const STAR_CTIME: Range<usize> = 488..500;
const STAR_TRAILER: Range<usize> = 508..512;

/// Magic and version of the headers that Go knows.
pub const MAGIC_USTAR: [u8; 8] = *b"ustar\x0000";
pub const MAGIC_GNU: [u8; 8] = *b"ustar  \0";

/// What the magic says that the rest of a header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The oldest: nothing after the link name. Any unknown magic too.
    V7,
    /// POSIX; the version is not looked at.
    Ustar,
    /// Schily's: ustar with a shorter prefix and two times.
    Star,
    /// GNU's: two times and a sparse map in place of the prefix.
    Gnu,
}

impl Flavour {
    /// By magic, version and star's trailer.
    pub fn of(block: &[u8]) -> Self {
        match block[MAGIC].first_chunk::<6>() {
            Some(b"ustar\0") if block[STAR_TRAILER] == *b"tar\0" => Self::Star,
            Some(b"ustar\0") => Self::Ustar,
            _ if block[MAGIC] == MAGIC_GNU => Self::Gnu,
            _ => Self::V7,
        }
    }
}

/// The bytes before the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|&byte| byte == 0).map_or(field, |end| &field[..end])
}

/// The field without the NULs at its end.
pub fn trimmed(field: &[u8]) -> &[u8] {
    &field[..field.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)]
}

/// A number in octal or base-256; `None` where Go gives an error.
pub fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let inverted = if field[0] & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0u64;
    for (i, byte) in field.iter().enumerate() {
        let byte = (byte ^ inverted) & if i == 0 { 0x7f } else { 0xff };
        if value >> 56 > 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if inverted == 0 { value } else { !value })
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(0, |last| last + 1);
    text(&field[start..end]).iter().try_fold(0i64, |value, &digit| match digit {
        b'0'..=b'7' => Some(value << 3 | i64::from(digit - b'0')),
        _ => None,
    })
}

/// Sum of the block's bytes, the checksum's own as spaces: unsigned, and as the signed bytes of some old writers.
pub fn checksums(block: &[u8]) -> (i64, i64) {
    let bytes = |part: &[u8]| part.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let high = |part: &[u8]| part.iter().map(|&byte| u32::from(byte >> 7)).sum::<u32>();
    let (before, after) = (&block[..CHECKSUM.start], &block[CHECKSUM.end..]);
    let unsigned = i64::from(bytes(before) + bytes(after)) + 8 * i64::from(b' ');
    (unsigned, unsigned - 256 * i64::from(high(before) + high(after)))
}

/// What a header block says, before extension headers are applied.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub flag: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: i64,
    pub uname: Vec<u8>,
    pub gname: Vec<u8>,
    pub major: i64,
    pub minor: i64,
}

impl Fields {
    /// Reads a block of 512 bytes.
    ///
    /// # Errors
    /// The checksum or a number is wrong; the text says which.
    pub fn read(block: &[u8]) -> Result<Self, &'static str> {
        let (unsigned, signed) = checksums(block);
        match octal(&block[CHECKSUM]) {
            Some(sum) if sum == unsigned || sum == signed => {}
            Some(_) => return Err("checksum does not match"),
            None => return Err("checksum is not a number"),
        }
        let mut fields = Self {
            flag: block[FLAG],
            name: text(&block[NAME]).to_vec(),
            link: text(&block[LINK]).to_vec(),
            mode: number(&block[MODE]).ok_or("mode is not a number")?,
            uid: number(&block[UID]).ok_or("owner is not a number")?,
            gid: number(&block[GID]).ok_or("group is not a number")?,
            size: number(&block[SIZE]).ok_or("size is not a number")?,
            mtime: number(&block[MTIME]).ok_or("modification time is not a number")?,
            ..Self::default()
        };
        let flavour = Flavour::of(block);
        if flavour == Flavour::V7 {
            return Ok(fields);
        }
        fields.uname = text(&block[UNAME]).to_vec();
        fields.gname = text(&block[GNAME]).to_vec();
        fields.major = number(&block[MAJOR]).ok_or("major device number is not a number")?;
        fields.minor = number(&block[MINOR]).ok_or("minor device number is not a number")?;
        let prefix = match flavour {
            Flavour::V7 => &[][..],
            Flavour::Ustar => text(&block[PREFIX]),
            Flavour::Star => {
                number(&block[STAR_ATIME]).ok_or("access time is not a number")?;
                number(&block[STAR_CTIME]).ok_or("change time is not a number")?;
                text(&block[STAR_PREFIX])
            }
            Flavour::Gnu => gnu_prefix(block),
        };
        if !prefix.is_empty() {
            fields.name = [prefix, b"/", &fields.name].concat();
        }
        Ok(fields)
    }
}

/// GNU headers have no prefix, but Go before 1.8 wrote one: it is taken for that when the times that stand there are
/// not numbers and it is ASCII.
fn gnu_prefix(block: &[u8]) -> &[u8] {
    let time = |field: Range<usize>| block[field.start] == 0 || number(&block[field]).is_some();
    let prefix = text(&block[PREFIX]);
    if time(GNU_ATIME) && time(GNU_CTIME) || !prefix.is_ascii() { &[] } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let cases: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x00644\0\0\0\0", Some(0o644)),
            (b"12\x0034 \0\0", Some(0o12)),
            (b"77777777", Some(0o77777777)),
            (b"12a\0\0\0\0\0", None),
            (b"8\0\0\0\0\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(0x102)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:x?}");
        }
    }
}
