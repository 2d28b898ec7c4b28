//! The varints of [`crate::wire`] (LEB128, at most ten bytes, always the shortest form), read from streams.

use std::io::{self, BufRead};

/// The longest varint, in bytes.
pub const MAX_VARINT_BYTES: usize = 10;

pub use crate::wire::{put_u64 as put, unzigzag, zigzag};

/// The bytes that [`put`] appends for `value`.
#[must_use]
pub fn length(value: u64) -> usize {
    let bits = 64 - value.leading_zeros() as usize;
    bits.div_ceil(7).max(1)
}

/// Takes one varint from the front of `input`; `None` when it is cut off, not minimal, or above 64 bits.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in input.iter().take(MAX_VARINT_BYTES).enumerate() {
        if index == MAX_VARINT_BYTES - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            if byte == 0 && index > 0 {
                return None;
            }
            *input = &input[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Reads one varint.
///
/// # Errors
/// Those of the reader; [`io::ErrorKind::InvalidData`] for a varint that is cut off, not minimal, or above 64 bits.
#[inline]
pub fn read<R: BufRead + ?Sized>(input: &mut R) -> io::Result<u64> {
    let buffer = input.fill_buf()?;
    // The common case: the whole varint is in the buffer.
    if let [byte, ..] = buffer
        && *byte < 0x80
    {
        let value = u64::from(*byte);
        input.consume(1);
        return Ok(value);
    }
    read_longer(input)
}

/// As [`read`], of one that is not a byte, or not in the buffer.
fn read_longer<R: BufRead + ?Sized>(input: &mut R) -> io::Result<u64> {
    let buffer = input.fill_buf()?;
    if let [first @ 0x80..=0xff, second @ 1..0x80, ..] = *buffer {
        input.consume(2);
        return Ok(u64::from(first & 0x7f) | u64::from(second) << 7);
    }
    if buffer.len() >= MAX_VARINT_BYTES {
        let mut rest = buffer;
        let value = take(&mut rest).ok_or_else(invalid)?;
        let used = buffer.len() - rest.len();
        input.consume(used);
        return Ok(value);
    }
    let mut bytes = [0u8; MAX_VARINT_BYTES];
    for index in 0..MAX_VARINT_BYTES {
        let byte = *input.fill_buf()?.first().ok_or_else(short)?;
        input.consume(1);
        bytes[index] = byte;
        if byte < 0x80 {
            return take(&mut &bytes[..=index]).ok_or_else(invalid);
        }
    }
    Err(invalid())
}

fn invalid() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a varint is not minimal or above 64 bits")
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the stream ends too early")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    proptest! {
        #[test]
        fn round_trip(values in proptest::collection::vec(any::<u64>().prop_flat_map(|v| (0u32..64).prop_map(move |s| v >> s)), 0..50)) {
            let mut bytes = Vec::new();
            for &value in &values {
                let before = bytes.len();
                put(&mut bytes, value);
                prop_assert_eq!(bytes.len() - before, length(value));
            }
            let mut rest = &bytes[..];
            let mut reader = BufReader::with_capacity(3, &bytes[..]);
            for &value in &values {
                prop_assert_eq!(take(&mut rest), Some(value));
                prop_assert_eq!(read(&mut reader).unwrap(), value);
            }
            prop_assert!(rest.is_empty());
            prop_assert!(read(&mut reader).is_err());
        }
    }

    #[test]
    fn refuses_what_is_not_minimal() {
        for bytes in [
            &[0x80, 0][..],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            &[0x80],
            &[],
        ] {
            assert_eq!(take(&mut &*bytes), None, "{bytes:?}");
            assert!(read(&mut &*bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(take(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..]), Some(u64::MAX));
    }
}
