//! Resources that `jlink --compress` deflated in a run-time image of the JVM (`lib/modules`), found by their headers.
//!
//! A header has 29 bytes, little-endian where the machine is (JDK, `jdk.internal.jimage.decompressor.CompressedResourceHeader`): FA FA FE CA, 8-byte
//! lengths of what follows and of what it was, two 4-byte places of text, a byte. What follows may be a zlib stream (RFC 1950).

use super::directory::Deflated;
use super::u32_at;

pub(super) const MAGIC: &[u8; 4] = &[0xda, 0xda, 0xfe, 0xca];
const RESOURCE_MAGIC: &[u8; 4] = &[0xfa, 0xfa, 0xfe, 0xca];
const HEADER_BYTES: usize = 29;
/// The header of a zlib stream, and its Adler-32.
const ZLIB_HEADER_BYTES: usize = 2;
const CHECK_BYTES: usize = 4;

/// The deflated resources of an image, in order.
pub(super) fn resources(image: &[u8]) -> impl Iterator<Item = Deflated> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += image.get(at..)?.iter().position(|byte| *byte == RESOURCE_MAGIC[0])?;
            match resource(image, at) {
                Some(found) => {
                    at = found.stream.end + CHECK_BYTES;
                    return Some(found);
                }
                None => at += 1,
            }
        }
    })
}

/// The one whose header is at `at`.
fn resource(image: &[u8], at: usize) -> Option<Deflated> {
    if !image.get(at..)?.starts_with(RESOURCE_MAGIC) {
        return None;
    }
    // Lengths above 32 bits are none.
    let [bytes, 0, inflated, 0] = [4, 8, 12, 16].map(|field| u32_at(image, at + field).unwrap_or(u32::MAX))
    else {
        return None;
    };
    let start = at + HEADER_BYTES;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    let &[method, flags, ..] = image.get(start..end)? else { return None };
    let is_zlib = method & 0xf == 8
        && flags & 0x20 == 0
        && (u16::from(method) << 8 | u16::from(flags)).is_multiple_of(31);
    let stream = start + ZLIB_HEADER_BYTES..end.checked_sub(CHECK_BYTES)?;
    let sums = (u32_at(image, stream.end)?, u32::try_from(stream.len()).ok()?, inflated);
    (is_zlib && stream.start < stream.end).then_some(Deflated { stream, sums })
}
