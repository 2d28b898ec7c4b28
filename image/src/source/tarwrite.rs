//! Tar headers as `dir:` writes them: POSIX pax, in the manner of Go's archive/tar.
//!
//! One form for one entry: numbers in octal, what does not fit (long or non-ASCII names, large numbers, fractions
//! of seconds, attributes) in a pax header before it, its records sorted by key; no splitting of names into
//! the prefix field, no names of users. The form is part of the digests of `dir:` images: do not change it.

use std::collections::BTreeMap;
use std::io::{self, Write};

const BLOCK: usize = 512;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// An entry without its contents.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    pub(super) target: Vec<u8>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// Writes the header of an entry; the number of bytes written.
pub(super) fn write_header(out: &mut impl Write, header: &Header) -> io::Result<u64> {
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut block = Block([0; BLOCK]);
    block.text(0, 100, &header.name, b"path", &mut records);
    block.number(100, 8, u64::from(header.mode), b"", &mut records);
    block.number(108, 8, u64::from(header.uid), b"uid", &mut records);
    block.number(116, 8, u64::from(header.gid), b"gid", &mut records);
    block.number(124, 12, header.size, b"size", &mut records);
    let whole = u64::try_from(header.seconds).ok().filter(|seconds| *seconds < 1 << 33);
    block.number(136, 12, whole.unwrap_or(0), b"", &mut records);
    if whole.is_none() || header.nanoseconds != 0 {
        records.insert(b"mtime".to_vec(), pax_time(header.seconds, header.nanoseconds).into_bytes());
    }
    block.0[156] = header.kind.flag();
    block.text(157, 100, &header.target, b"linkpath", &mut records);
    // Linux device numbers always fit: 12 bits of major, 20 of minor.
    block.number(329, 8, u64::from(header.major), b"", &mut records);
    block.number(337, 8, u64::from(header.minor), b"", &mut records);
    for (name, value) in &header.xattrs {
        records.insert([b"SCHILY.xattr.", &name[..]].concat(), value.clone());
    }
    let mut written = 0;
    if !records.is_empty() {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        let mut pax = Block([0; BLOCK]);
        pax.bytes(0, 100, &pax_name(&header.name));
        for (at, length) in [(100, 8), (108, 8), (116, 8), (136, 12)] {
            pax.octal(at, length, 0);
        }
        pax.octal(124, 12, data.len() as u64);
        pax.0[156] = b'x';
        out.write_all(&pax.finish())?;
        out.write_all(&data)?;
        write_padding(out, data.len() as u64)?;
        written += BLOCK as u64 + padded(data.len() as u64);
    }
    out.write_all(&block.finish())?;
    Ok(written + BLOCK as u64)
}

/// Fills contents of `bytes` bytes up to whole blocks.
pub(super) fn write_padding(out: &mut impl Write, bytes: u64) -> io::Result<()> {
    let missing = padded(bytes) - bytes;
    io::copy(&mut io::Read::take(io::repeat(0), missing), out).map(drop)
}

/// Ends the archive: two blocks of zeros.
pub(super) fn write_end(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK as u64)
}

struct Block([u8; BLOCK]);

impl Block {
    /// Puts text in a field, ended by a NUL where there is room; the rest of it is cut off.
    fn bytes(&mut self, at: usize, length: usize, text: &[u8]) {
        let used = text.len().min(length);
        self.0[at..at + used].copy_from_slice(&text[..used]);
    }

    /// The same, and a record of the whole text where the field does not hold all of it.
    fn text(
        &mut self,
        at: usize,
        length: usize,
        text: &[u8],
        key: &[u8],
        records: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    ) {
        let ascii: Vec<u8> = text.iter().copied().filter(u8::is_ascii).collect();
        self.bytes(at, length, &ascii);
        // A cut name that ends in a slash would turn a file into a directory for readers without pax.
        let end = at + length - 1;
        if ascii.len() > length && self.0[end] == b'/' {
            let kept = self.0[at..=end].iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
            self.0[at + kept] = 0;
        }
        if text.len() > length || ascii.len() != text.len() {
            records.insert(key.to_vec(), text.to_vec());
        }
    }

    /// Puts a number in a field, or zero and a record where it has too many digits.
    fn number(
        &mut self,
        at: usize,
        length: usize,
        number: u64,
        key: &[u8],
        records: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    ) {
        let fits = number < 1 << (3 * (length - 1));
        self.octal(at, length, if fits { number } else { 0 });
        if !fits {
            records.insert(key.to_vec(), number.to_string().into_bytes());
        }
    }

    fn octal(&mut self, at: usize, length: usize, number: u64) {
        let digits = format!("{number:0width$o}", width = length - 1);
        self.0[at..at + length - 1].copy_from_slice(&digits.as_bytes()[..length - 1]);
    }

    /// Adds what all headers have, and the checksum.
    fn finish(mut self) -> [u8; BLOCK] {
        self.0[257..265].copy_from_slice(b"ustar\x0000");
        self.0[148..156].fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.octal(148, 7, sum);
        self.0[154] = 0;
        self.0
    }
}

/// A pax record: its own length, in decimal, counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Seconds with as many decimals as are needed.
fn pax_time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    // Before 1970 the fraction counts backwards: -1 s + 0.25 s is written -0.75.
    let (sign, whole, fraction) = if seconds < 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        ("", seconds.unsigned_abs(), nanoseconds)
    };
    let decimals = format!("{fraction:09}");
    format!("{sign}{whole}.{}", decimals.trim_end_matches('0'))
}

/// The name of the pax header of `name`: `PaxHeaders.0` put in as last directory.
fn pax_name(name: &[u8]) -> Vec<u8> {
    let trimmed = &name[..name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1)];
    let base = if name.ends_with(b"/") {
        name.len()
    } else {
        trimmed.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1)
    };
    let (dir, file) = name.split_at(base);
    let path = [dir, b"/PaxHeaders.0/", file].concat();
    let parts: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let mut cleaned: Vec<u8> = parts.join(&b'/');
    cleaned.retain(u8::is_ascii);
    cleaned.truncate(100);
    while cleaned.ends_with(b"/") {
        cleaned.pop();
    }
    cleaned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str) -> Header {
        Header {
            name: name.into(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            seconds: 0,
            nanoseconds: 0,
            target: Vec::new(),
            xattrs: BTreeMap::new(),
            major: 0,
            minor: 0,
        }
    }

    fn written(header: &Header) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = write_header(&mut out, header).unwrap();
        assert_eq!(bytes, out.len() as u64);
        out
    }

    #[test]
    fn records_count_their_own_length() {
        assert_eq!(record(b"path", b"x"), b"9 path=x\n");
        assert_eq!(record(b"a", b"b"), b"6 a=b\n");
        assert_eq!(record(b"path", &[b'x'; 90]).len(), 99);
        assert_eq!(record(b"path", &[b'x'; 91]).len(), 101);
        assert!(record(b"path", &[b'x'; 91]).starts_with(b"101 "));
    }

    #[test]
    fn times_before_1970_count_backwards() {
        assert_eq!(pax_time(5, 0), "5");
        assert_eq!(pax_time(5, 120_000_000), "5.12");
        assert_eq!(pax_time(-5, 0), "-5");
        assert_eq!(pax_time(-1, 250_000_000), "-0.75");
        assert_eq!(pax_time(-2, 999_999_999), "-1.000000001");
        assert_eq!(pax_time(i64::MIN, 1), "-9223372036854775807.999999999");
    }

    #[test]
    fn plain_entries_have_no_pax_header() {
        let out = written(&Header { uid: 2_097_151, seconds: 1_700_000_000, ..header("a/b") });
        assert_eq!(out.len(), 512);
        assert_eq!(&out[..4], b"a/b\0");
        assert_eq!(&out[108..116], b"7777777\0");
        assert_eq!(&out[136..148], b"14524770400\0");
        assert_eq!(&out[257..265], b"ustar\x0000");
        let parsed = ::tar::Header::from_byte_slice(&out);
        assert_eq!(parsed.cksum().unwrap(), {
            let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
            sum - out[148..156].iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32
        });
    }

    #[test]
    fn what_does_not_fit_is_a_record() {
        let long = "d/".repeat(60) + "f";
        let mut large = Header { uid: 2_097_152, gid: u32::MAX, size: 1 << 33, ..header(&long) };
        large.seconds = -1;
        large.nanoseconds = 5;
        large.xattrs.insert(b"user.x".to_vec(), vec![0, b'\n', 255]);
        let out = written(&large);
        let text = String::from_utf8_lossy(&out[512..1024]);
        let keys: Vec<_> = [
            "SCHILY.xattr.user.x",
            "gid=4294967295",
            "mtime=-0.999999995",
            "path=d/d",
            "size=8589934592",
            "uid=2097152",
        ]
        .iter()
        .map(|key| text.find(key).unwrap_or_else(|| panic!("{key} in {text}")))
        .collect();
        assert!(keys.is_sorted());
        assert_eq!(out.len(), 1536);
        assert_eq!(&out[1024 + 108..1024 + 116], b"0000000\0");
        assert_eq!(out[1024 + 99], 0);
    }

    #[test]
    fn pax_headers_are_named_after_their_entry() {
        assert_eq!(pax_name(b"f"), b"PaxHeaders.0/f");
        assert_eq!(pax_name(b"a/b/f"), b"a/b/PaxHeaders.0/f");
        assert_eq!(pax_name(b"a/b/"), b"a/b/PaxHeaders.0");
        assert_eq!(pax_name("é/f".as_bytes()), b"/PaxHeaders.0/f");
        assert_eq!(pax_name(&[b'x'; 300]).len(), 100);
    }
}
