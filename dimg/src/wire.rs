//! The integers and byte strings that our columns are made of, and a reader that names the offset of what is wrong.
//!
//! Integers are LEB128: seven bits a byte, least significant first, at most ten bytes, without needless zero bytes;
//! signed ones are zigzag-coded first.

/// What is wrong with encoded bytes, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at offset {offset} of {of}: {why}")]
pub struct WireError {
    /// What was being read.
    pub what: &'static str,
    /// Which byte string: a section or column by name.
    pub of: &'static str,
    /// Offset in bytes from the start of `of`.
    pub offset: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Appends `value` as LEB128.
pub fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

/// Appends a count or length as LEB128.
pub fn put_usize(out: &mut Vec<u8>, value: usize) {
    put_u64(out, value as u64);
}

/// Appends `value` zigzag-coded.
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

/// Appends length and bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_usize(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Maps small magnitudes of either sign to small numbers.
pub fn zigzag(value: i64) -> u64 {
    (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned()
}

/// The inverse of [`zigzag`].
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

/// A cursor over encoded bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    of: &'static str,
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which errors call `of`.
    pub fn new(bytes: &'a [u8], of: &'static str) -> Self {
        Self { bytes, at: 0, of }
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// An error about `what` at the current offset.
    pub fn error(&self, what: &'static str, why: impl Into<String>) -> WireError {
        WireError { what, of: self.of, offset: self.at as u64, why: why.into() }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        if count > self.remaining() {
            return Err(self.error(what, format!("{count} bytes wanted, {} left", self.remaining())));
        }
        let bytes = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(bytes)
    }

    /// The next byte.
    ///
    /// # Errors
    /// None is left.
    pub fn byte(&mut self, what: &'static str) -> Result<u8, WireError> {
        Ok(self.take(1, what)?[0])
    }

    /// The next integer.
    ///
    /// # Errors
    /// The bytes end within it, or it is not in its shortest form, or exceeds 64 bits.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (i, &byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return Err(self.error(what, "integer exceeds 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                if byte == 0 && i > 0 {
                    return Err(self.error(what, "integer is not in its shortest form"));
                }
                self.at += i + 1;
                return Ok(value);
            }
        }
        Err(self.error(what, "integer is cut short"))
    }

    /// The next zigzag-coded integer.
    ///
    /// # Errors
    /// As for [`Reader::u64`].
    pub fn i64(&mut self, what: &'static str) -> Result<i64, WireError> {
        self.u64(what).map(unzigzag)
    }

    /// The next integer, at most `limit`.
    ///
    /// # Errors
    /// As for [`Reader::u64`], or it exceeds `limit`.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, WireError> {
        let before = self.clone();
        let value = self.u64(what)?;
        match usize::try_from(value) {
            Ok(count) if count <= limit => Ok(count),
            _ => Err(before.error(what, format!("{value} exceeds the limit of {limit}"))),
        }
    }

    /// The next length-prefixed bytes, at most `limit`.
    ///
    /// # Errors
    /// As for [`Reader::count`] and [`Reader::take`].
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let count = self.count(limit, what)?;
        self.take(count, what)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// Something is.
    pub fn end(&self) -> Result<(), WireError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.error("end", format!("{left} bytes too many"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn integers_come_back(values: Vec<(u64, i64)>) {
            let mut bytes = Vec::new();
            for &(unsigned, signed) in &values {
                put_u64(&mut bytes, unsigned);
                put_i64(&mut bytes, signed);
            }
            let mut reader = Reader::new(&bytes, "test");
            for &(unsigned, signed) in &values {
                prop_assert_eq!(reader.u64("u"), Ok(unsigned));
                prop_assert_eq!(reader.i64("i"), Ok(signed));
            }
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes, "test");
            while reader.bytes(10, "b").is_ok_and(|b| b.len() <= 10) && reader.u64("u").is_ok() {}
        }
    }

    #[test]
    fn each_check_refuses() {
        let read = |bytes: &[u8]| Reader::new(bytes, "test").u64("n").map_err(|e| e.why);
        assert_eq!(read(&[]), Err("integer is cut short".into()));
        assert_eq!(read(&[0x80]), Err("integer is cut short".into()));
        assert_eq!(read(&[0x80, 0]), Err("integer is not in its shortest form".into()));
        assert_eq!(read(&[0xff; 10]), Err("integer exceeds 64 bits".into()));
        let error = Reader::new(&[9, 1], "column x").bytes(5, "name").unwrap_err();
        assert_eq!(error.to_string(), "name at offset 0 of column x: 9 exceeds the limit of 5");
        let error = Reader::new(&[3, 1], "column x").bytes(5, "name").unwrap_err();
        assert_eq!(error.to_string(), "name at offset 1 of column x: 3 bytes wanted, 1 left");
    }
}
