//! What a walk reads from and writes to.
//!
//! A number of one byte stands as it is in a form. One of more is a byte 80 + n, n the bytes it has if that is not as few as can be, else 0; and four
//! bytes, or, if they are not enough, with 40 added to the first, eight.

/// A number that was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    /// Its two's complement, where it is signed.
    pub(crate) value: u64,
    /// Where in a form its four bytes are; none where it has others.
    pub(crate) place: Option<usize>,
}

/// What a number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A number of a function, in a form always in four bytes.
    Function,
    /// A distance from an address on the stack.
    Offset,
    /// A constant of 32 bits, signed.
    Constant32,
    /// One of 64 bits.
    Constant64,
    /// A type or a kind of block, signed.
    Type,
    /// Anything else without a sign.
    Other,
}

impl What {
    fn is_signed(self) -> bool {
        matches!(self, Self::Constant32 | Self::Constant64 | Self::Type)
    }

    /// Bytes of LEB128, at most.
    fn most(self) -> usize {
        match self {
            // Of a memory of 64 bits.
            Self::Constant64 | Self::Offset => 10,
            _ => 5,
        }
    }
}

/// One side of a walk: takes items, and writes them in the other way.
pub(crate) trait Side {
    /// The next byte, which is the same in both.
    fn byte(&mut self) -> Option<u8>;
    /// The next so many.
    fn bytes(&mut self, count: usize) -> Option<()>;
    /// The next number.
    fn number(&mut self, what: What) -> Option<Number>;
}

const LONG: u8 = 0x80;
const EIGHT: u8 = 0x40;
const LENGTH: u8 = 0x0f;

/// From a content to a form.
pub(super) struct Opener<'a> {
    content: &'a [u8],
    at: usize,
    form: Vec<u8>,
}

impl<'a> Opener<'a> {
    pub(super) fn new(content: &'a [u8]) -> Self {
        Self { content, at: 0, form: Vec::new() }
    }

    /// What was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.content.get(self.at..).unwrap_or_default()
    }

    /// What was written since.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.form)
    }

    /// Puts a byte that says something of the form.
    pub(super) fn put(&mut self, byte: u8) {
        self.form.push(byte);
    }

    /// Goes on behind so many bytes.
    pub(super) fn skip(&mut self, count: usize) {
        self.at += count;
    }
}

impl Side for Opener<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.content.get(self.at)?;
        self.at += 1;
        self.form.push(byte);
        Some(byte)
    }

    fn bytes(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count)?;
        self.form.extend_from_slice(self.content.get(self.at..end)?);
        self.at = end;
        Some(())
    }

    #[inline]
    fn number(&mut self, what: What) -> Option<Number> {
        let first = *self.content.get(self.at)?;
        if first < 0x80 && what != What::Function {
            self.at += 1;
            self.form.push(first);
            return Some(Number { value: small(first, what), place: None });
        }
        let (value, length) = read(self.content.get(self.at..)?, what)?;
        self.at += length;
        let told = if length == shortest(value, what) { 0 } else { u8::try_from(length).ok()? };
        let [four, eight] = [0, EIGHT].map(|eight| LONG | eight | told);
        let low = value.to_le_bytes();
        let fits = match what.is_signed() {
            true => i32::try_from(value.cast_signed()).is_ok(),
            false => u32::try_from(value).is_ok(),
        };
        if fits {
            self.form.extend_from_slice(&[four, low[0], low[1], low[2], low[3]]);
        } else {
            self.form.push(eight);
            self.form.extend_from_slice(&low);
        }
        Some(Number { value, place: None })
    }
}

/// The number that is one byte.
#[inline]
fn small(byte: u8, what: What) -> u64 {
    let value = u64::from(byte);
    if what.is_signed() && byte & 0x40 != 0 { value | !0x7f } else { value }
}

/// The number that `bytes` begin with, and how many it has: what `write` makes again.
fn read(bytes: &[u8], what: What) -> Option<(u64, usize)> {
    let (mut value, mut length) = (0u64, 0);
    loop {
        let byte = *bytes.get(length)?;
        let bits = 7 * u32::try_from(length).ok()?;
        value |= u64::from(byte & 0x7f) << bits;
        length += 1;
        if byte < 0x80 {
            if what.is_signed() && byte & 0x40 != 0 && bits + 7 < 64 {
                value |= u64::MAX << (bits + 7);
            }
            break;
        }
        if length == what.most() {
            return None;
        }
    }
    let mut again = [0; 10];
    write(value, what, length, &mut again)?;
    (again.get(..length) == bytes.get(..length)).then_some((value, length))
}

/// Bytes of LEB128 that a number takes at least.
fn shortest(value: u64, what: What) -> usize {
    let bits = match what.is_signed() {
        true => 65 - (value ^ (value.cast_signed() >> 63).cast_unsigned()).leading_zeros(),
        false => (64 - value.leading_zeros()).max(1),
    };
    bits.div_ceil(7) as usize
}

/// Writes a number in just so many bytes; none if it takes more.
fn write(value: u64, what: What, length: usize, out: &mut [u8; 10]) -> Option<()> {
    if length < shortest(value, what) {
        return None;
    }
    let mut rest = value;
    for byte in out.get_mut(..length)? {
        *byte = rest.to_le_bytes()[0] | 0x80;
        rest = match what.is_signed() {
            true => (rest.cast_signed() >> 7).cast_unsigned(),
            false => rest >> 7,
        };
    }
    *out.get_mut(length.checked_sub(1)?)? &= 0x7f;
    Some(())
}

/// The byte that says in how many bytes a length was told: 0 for as few as can be.
pub(super) fn surplus(length: usize, value: usize) -> Option<u8> {
    if length == shortest(value as u64, What::Other) { Some(0) } else { u8::try_from(length).ok() }
}

/// Writes a length in as many bytes as [`surplus`] says.
pub(super) fn put_length(out: &mut Vec<u8>, value: usize, surplus: u8) -> Option<()> {
    let mut bytes = [0; 10];
    let length = match surplus {
        0 => shortest(value as u64, What::Other),
        length => usize::from(length),
    };
    if length > What::Other.most() {
        return None;
    }
    write(value as u64, What::Other, length, &mut bytes)?;
    out.extend_from_slice(bytes.get(..length)?);
    Some(())
}

/// A number in a form, where it is at `at`: itself, the bytes that tell of it and those that it had.
#[inline]
pub(crate) fn in_form(form: &[u8], at: usize, what: What) -> Option<(Number, usize, usize)> {
    let first = *form.get(at)?;
    if first < LONG {
        return Some((Number { value: small(first, what), place: None }, 1, 1));
    }
    let told = usize::from(first & LENGTH);
    let (value, count) = if first & EIGHT == 0 {
        let four = u32::from_le_bytes(form.get(at + 1..at + 5)?.try_into().ok()?);
        let wide = match what.is_signed() {
            true => i64::from(four.cast_signed()).cast_unsigned(),
            false => four.into(),
        };
        (wide, 5)
    } else {
        (u64::from_le_bytes(form.get(at + 1..at + 9)?.try_into().ok()?), 9)
    };
    let length = if told == 0 { shortest(value, what) } else { told };
    let place = (count == 5).then_some(at + 1);
    (length <= what.most()).then_some((Number { value, place }, count, length))
}

/// From a form to a content of at most so many bytes.
pub(super) struct Closer<'a> {
    form: &'a [u8],
    at: usize,
    content: Vec<u8>,
    limit: usize,
}

impl<'a> Closer<'a> {
    pub(super) fn new(form: &'a [u8], limit: usize) -> Self {
        Self { form, at: 0, content: Vec::new(), limit }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.form.get(self.at..).unwrap_or_default()
    }

    /// The next byte, which says something of the form.
    pub(super) fn input(&mut self) -> Option<u8> {
        let byte = *self.form.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// The next four as a number.
    pub(super) fn input_four(&mut self) -> Option<usize> {
        let four = super::super::u32_at(self.form, self.at)?;
        self.at += 4;
        usize::try_from(four).ok()
    }

    /// The next so many bytes.
    pub(super) fn input_bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.form.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.content)
    }

    /// Bytes written so far.
    pub(super) fn written(&self) -> usize {
        self.content.len()
    }

    /// Puts bytes behind what is written.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        if self.content.len() + bytes.len() > self.limit {
            return None;
        }
        self.content.extend_from_slice(bytes);
        Some(())
    }

    /// Has the length of what was written from `start` on stand before it.
    pub(super) fn put_length_at(&mut self, start: usize, surplus: u8) -> Option<()> {
        let mut length = Vec::new();
        put_length(&mut length, self.content.len().checked_sub(start)?, surplus)?;
        let (old, count) = (self.content.len(), length.len());
        self.put(&length)?;
        self.content.copy_within(start..old, start + count);
        self.content.get_mut(start..start + count)?.copy_from_slice(&length);
        Some(())
    }
}

impl Side for Closer<'_> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = self.input()?;
        self.put(&[byte])?;
        Some(byte)
    }

    fn bytes(&mut self, count: usize) -> Option<()> {
        let bytes = self.input_bytes(count)?;
        self.put(bytes)
    }

    #[inline]
    fn number(&mut self, what: What) -> Option<Number> {
        let (number, count, length) = in_form(self.form, self.at, what)?;
        self.at += count;
        let mut bytes = [0; 10];
        write(number.value, what, length, &mut bytes)?;
        self.put(bytes.get(..length)?)?;
        Some(number)
    }
}

/// Writes a constant in as few bytes as can be.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i32) -> Option<()> {
    put_number(out, i64::from(value).cast_unsigned(), What::Constant32, 0)
}

/// Writes a number in so many bytes more than it takes.
pub(super) fn put_number(out: &mut Vec<u8>, value: u64, what: What, surplus: usize) -> Option<()> {
    let (length, mut bytes) = (shortest(value, what) + surplus, [0; 10]);
    if length > what.most() {
        return None;
    }
    write(value, what, length, &mut bytes)?;
    out.extend_from_slice(bytes.get(..length)?);
    Some(())
}
