//! Compressed members: contents such as `.gz` and zip files, opened and packed again bit for bit.
//!
//! *Unpacking* makes the *opened form* of a content from its bytes alone ([`Plan`]): what was deflated stands there inflated, what was
//! around it as it was, but for fields that follow from the rest: those are predicted, and what differs is kept.
//! *Packing* ([`pack`]) makes the content from its opened form and *parameters* ([`Parameters`]): who deflated each stream. So
//! unpacking what was packed gives the opened form again, and a patch between two opened forms says nothing of compression.
//!
//! An opened form is a list of pieces to its end, each begun by a byte:
//!
//! | byte | then | is |
//! |---|---|---|
//! | 0 | bytes to the end | those bytes |
//! | 1 | a gzip header; bytes to the end | a gzip member |
//! | 2 | 4-byte n; a gzip header; n bytes | a gzip member |
//! | 3 | 4-byte n; n bytes | those bytes, of a zip file |
//! | 4, 5, 6 | 4-byte n; n bytes | deflated data of a zip file; then with 5 a data descriptor, with 6 one with its signature |
//!
//! That of an ELF file with deflated sections is another ([`elf`]), and so are that of bitcode ([`bitcode`]), which has nothing deflated, so no
//! parameters, those of `.xz` files ([`xz`]) and of WebAssembly ([`wasm`]), which has none either; all begin as the content does, the last one but for its
//! eighth byte.
//!
//! An opened form of pieces may be opened again, as a zip file is, for the archives that were deflated in it.

mod bitcode;
mod directory;
mod elf;
mod fields;
mod inflate;
mod pack;
mod parameters;
mod resources;
mod search;
mod streams;
mod unpack;
pub(crate) mod wasm;
mod xz;

pub use directory::{Deflated, Sums, deflated, may_hold_members, places};
use inflate::Inflated;
pub use pack::pack;
pub use parameters::{Method, Parameters};
pub use search::{comes_back, find_parameters, packs_to};
pub use streams::find_streams;
pub use unpack::Plan;
pub use xz::{HEAD_BYTES as XZ_HEAD_BYTES, Preset, memory as xz_memory};

#[cfg(any(test, fuzzing))]
pub use bitcode::sample as bitcode_sample;
#[cfg(test)]
pub(crate) use elf::with_sections;
#[cfg(test)]
pub(crate) use tests::zip;
#[cfg(any(test, fuzzing))]
pub use wasm::sample as wasm_sample;

/// Bytes of an opened form, at most.
pub const MAX_OPENED_BYTES: u64 = if cfg!(fuzzing) { 16 << 20 } else { 1 << 30 };
/// How often a content may be opened: itself, its opened form, and that one's.
pub const MAX_DEPTH: usize = 3;
/// Bytes of a zip file's member inflated, at most: larger ones stay as they are.
pub const MAX_ZIP_MEMBER_BYTES: u64 = if cfg!(fuzzing) { 1 << 20 } else { 64 << 20 };
/// Streams that are named to be opened, at most.
pub const MAX_SOME_STREAMS: usize = 1 << 18;

/// The version of unpacking and packing for WebAssembly.
pub const WASM_VERSION: u32 = 4;

const RAW_TO_END: u8 = 0;
const GZIP_TO_END: u8 = 1;
const GZIP: u8 = 2;
const RAW: u8 = 3;
const ZIP: u8 = 4;
const ZIP_DESCRIPTOR: u8 = 5;
const ZIP_SIGNED_DESCRIPTOR: u8 = 6;
/// No piece has it: the first byte of an ELF file.
const ELF: u8 = 0x7f;
/// Nor this: the first byte of a `.xz` file.
const XZ: u8 = 0xfd;

/// The trailer of a gzip member: CRC-32 and length modulo 2^32.
const GZIP_TRAILER_BYTES: usize = 8;
const GZIP_MAGIC: &[u8; 3] = &[0x1f, 0x8b, 8];
const LOCAL_SIGNATURE: &[u8; 4] = b"PK\x03\x04";
const CENTRAL_SIGNATURE: &[u8; 4] = b"PK\x01\x02";
const END_SIGNATURE: &[u8; 4] = b"PK\x05\x06";
const DESCRIPTOR_SIGNATURE: &[u8; 4] = b"PK\x07\x08";
/// CRC-32, deflated and inflated bytes.
const DESCRIPTOR_BYTES: usize = 12;
/// A central directory's header before its name.
const CENTRAL_BYTES: usize = 46;
/// The end of a central directory without its comment.
const END_BYTES: usize = 22;

/// Whether a content begins as one that may be opened.
#[must_use]
pub fn may_open(content: &[u8]) -> bool {
    content.starts_with(GZIP_MAGIC)
        || content.starts_with(LOCAL_SIGNATURE)
        || content.starts_with(elf::MAGIC)
        || is_opened(content)
        || bitcode::begins(content)
        || xz::begins(content)
        || wasm::begins(content)
}

/// The version of unpacking that opens a content that begins so, and of packing what was opened: 2 for bitcode, 3 for `.xz`, 4 for WebAssembly,
/// 5 for an opened form, else 1.
#[must_use]
pub fn version(content: &[u8]) -> u32 {
    if is_opened(content) { 5 } else { own_version(content) }
}

/// The version of packing that packs an opened form that begins so.
#[must_use]
pub fn form_version(form: &[u8]) -> u32 {
    if is_opened(inside(form)) { 5 } else { own_version(form) }
}

/// The version of a content, or an opened form, that begins as itself, not by a piece.
fn own_version(bytes: &[u8]) -> u32 {
    match bytes {
        _ if bitcode::begins(bytes) => 2,
        _ if xz::begins(bytes) => 3,
        _ if wasm::begins(bytes) => WASM_VERSION,
        _ => 1,
    }
}

/// What stands in the first piece of the opened form of a zip file.
fn inside(form: &[u8]) -> &[u8] {
    match form {
        [RAW, _, _, _, _, content @ ..] => content,
        _ => &[],
    }
}

/// Whether a content begins as the opened form of a gzip or zip file, or as one opened again, as long as that can be opened once more.
fn is_opened(content: &[u8]) -> bool {
    let mut rest = content;
    for _ in 1..MAX_DEPTH {
        rest = match rest {
            [GZIP_TO_END, rest @ ..] | [GZIP | RAW, _, _, _, _, rest @ ..] => rest,
            _ => return false,
        };
        if rest.starts_with(GZIP_MAGIC) || rest.starts_with(LOCAL_SIGNATURE) {
            return true;
        }
    }
    false
}

/// The number of bytes of the gzip header that `bytes` begin with.
fn gzip_header(bytes: &[u8]) -> Option<usize> {
    let &[0x1f, 0x8b, 8, flags, ..] = bytes else { return None };
    let (has_check, has_extra, has_name, has_comment) =
        (flags & 2 != 0, flags & 4 != 0, flags & 8 != 0, flags & 16 != 0);
    if flags & 0xe0 != 0 {
        return None;
    }
    let mut at = 10;
    if has_extra {
        at += 2 + usize::from(u16_at(bytes, at)?);
    }
    for _ in 0..usize::from(has_name) + usize::from(has_comment) {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
    }
    at += if has_check { 2 } else { 0 };
    (at <= bytes.len()).then_some(at)
}

/// A local header of a zip file.
#[derive(Debug, Clone, Copy)]
struct LocalHeader {
    bytes: usize,
    deflated: bool,
    /// Whether check and lengths come after the data.
    streamed: bool,
}

impl LocalHeader {
    /// The one that `bytes` begin with, when all of it is there.
    fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(LOCAL_SIGNATURE) {
            return None;
        }
        let (flags, method) = (u16_at(bytes, 6)?, u16_at(bytes, 8)?);
        let count = 30 + usize::from(u16_at(bytes, 26)?) + usize::from(u16_at(bytes, 28)?);
        let encrypted = flags & 1 != 0;
        let header = Self { bytes: count, deflated: method == 8 && !encrypted, streamed: flags & 8 != 0 };
        (count <= bytes.len()).then_some(header)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    field.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_le_bytes)
}

/// The kind of member that a stream is behind which, at `at`, a data descriptor of it stands, and that one's bytes.
fn descriptor(content: &[u8], at: usize, stream: &Inflated) -> Option<(u8, usize)> {
    if content.get(at..)?.starts_with(DESCRIPTOR_SIGNATURE) && is_told(content, at + 4, stream) {
        return Some((ZIP_SIGNED_DESCRIPTOR, 4 + DESCRIPTOR_BYTES));
    }
    is_told(content, at, stream).then_some((ZIP_DESCRIPTOR, DESCRIPTOR_BYTES))
}

/// Whether check and lengths stand at `at`.
fn is_told(content: &[u8], at: usize, stream: &Inflated) -> bool {
    u32_at(content, at) == Some(stream.crc)
        && u32_at(content, at + 4).map(u64::from) == Some(stream.deflated)
        && u32_at(content, at + 8).map(u64::from) == Some(stream.inflated)
}

/// A length as a field of 32 bits has it.
fn field_of(length: u64) -> u32 {
    u32::try_from(length & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
