//! How writers put numbers into header fields.

/// The form of a number in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Octal digits; base-256 when they do not fit.
    Octal(Fill, Terminator),
    /// Two's complement, the top bit set.
    Base256,
    /// Zero as a field of NULs.
    Nuls,
    /// Zero as a field of spaces.
    Spaces,
}

/// What stands before the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// Spaces.
    Spaces,
    /// Nothing: the field is filled with NULs after the terminator.
    Nothing,
}

/// What stands after the digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Terminator {
    /// A NUL.
    Nul,
    /// A space.
    Space,
    /// A space, then a NUL.
    SpaceNul,
    /// A NUL, then a space: the checksum's usual form.
    NulSpace,
    /// Two NULs.
    NulNul,
    /// Nothing: the digits end with the field.
    Nothing,
}

const FILLS: [Fill; 3] = [Fill::Zeros, Fill::Spaces, Fill::Nothing];
const TERMINATORS: [Terminator; 6] = [
    Terminator::Nul,
    Terminator::Space,
    Terminator::SpaceNul,
    Terminator::NulSpace,
    Terminator::NulNul,
    Terminator::Nothing,
];

impl Terminator {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Nul => b"\0",
            Self::Space => b" ",
            Self::SpaceNul => b" \0",
            Self::NulSpace => b"\0 ",
            Self::NulNul => b"\0\0",
            Self::Nothing => b"",
        }
    }
}

impl Form {
    /// Every form, the usual ones first; the place is the form's code.
    pub fn all() -> impl Iterator<Item = Self> {
        let octal = TERMINATORS.into_iter().flat_map(|end| FILLS.map(|fill| Self::Octal(fill, end)));
        octal.chain([Self::Base256, Self::Nuls, Self::Spaces])
    }

    /// The form's code in a style.
    pub fn code(self) -> u8 {
        let place = Self::all().position(|form| form == self);
        place.and_then(|place| u8::try_from(place).ok()).expect("every form is in the list, which is short")
    }

    /// The form with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::all().nth(usize::from(code))
    }

    /// The first form that gives `field` for `value`.
    pub fn of(field: &[u8], value: i64) -> Option<Self> {
        let mut written = [0; 12];
        let written = &mut written[..field.len()];
        Self::all().find(|form| form.write(written, value).is_some() && *written == *field)
    }

    /// Writes the whole of `field`, at most 12 bytes; `None` when the value has no such form.
    pub fn write(self, field: &mut [u8], value: i64) -> Option<()> {
        match self {
            Self::Octal(fill, end) => {
                octal(field, value, fill, end.bytes()).or_else(|| base256(field, value))
            }
            Self::Base256 => base256(field, value),
            Self::Nuls if value == 0 => {
                field.fill(0);
                Some(())
            }
            Self::Spaces if value == 0 => {
                field.fill(b' ');
                Some(())
            }
            Self::Nuls | Self::Spaces => None,
        }
    }

    /// The largest number of the form without base-256, when that is an octal form.
    pub fn most(self, width: usize) -> Option<i64> {
        match self {
            Self::Octal(_, end) => Some((1i64 << (3 * width.checked_sub(end.bytes().len())?.min(20))) - 1),
            _ => None,
        }
    }
}

fn octal(field: &mut [u8], value: i64, fill: Fill, end: &[u8]) -> Option<()> {
    let mut rest = u64::try_from(value).ok()?;
    let mut digits = [0; 22];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest & 7) as u8;
        rest >>= 3;
        if rest == 0 {
            break;
        }
    }
    let digits = &digits[at..];
    let room = field.len().checked_sub(end.len() + digits.len())?;
    let before = match fill {
        Fill::Zeros => b'0',
        Fill::Spaces => b' ',
        Fill::Nothing => {
            let (text, after) = field.split_at_mut(digits.len() + end.len());
            text[..digits.len()].copy_from_slice(digits);
            text[digits.len()..].copy_from_slice(end);
            after.fill(0);
            return Some(());
        }
    };
    field[..room].fill(before);
    field[room..room + digits.len()].copy_from_slice(digits);
    field[room + digits.len()..].copy_from_slice(end);
    Some(())
}

fn base256(field: &mut [u8], value: i64) -> Option<()> {
    let bits = u32::try_from(8 * field.len() - 1).ok()?;
    // One bit marks the form and the next is the sign, so 62 bits and more always fit in 8 bytes and more.
    if bits < 64 && value.unsigned_abs() >> (bits - 1) != 0 {
        return None;
    }
    let mut rest = value;
    for byte in field.iter_mut().rev() {
        *byte = rest.to_le_bytes()[0];
        rest >>= 8;
    }
    field[0] |= 0x80;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tar::block::number;

    #[test]
    fn forms_have_codes() {
        for (code, form) in (0..).zip(Form::all()) {
            assert_eq!((form.code(), Form::from_code(code)), (code, Some(form)));
        }
        assert_eq!(Form::from_code(21), None);
    }

    #[test]
    fn usual_forms() {
        let text = |form: Form, value| {
            let mut field = [0; 8];
            form.write(&mut field, value).map(|()| field)
        };
        assert_eq!(text(Form::Octal(Fill::Zeros, Terminator::Nul), 0o644), Some(*b"0000644\0"));
        assert_eq!(text(Form::Octal(Fill::Spaces, Terminator::SpaceNul), 0o644), Some(*b"   644 \0"));
        assert_eq!(text(Form::Octal(Fill::Nothing, Terminator::Space), 0o644), Some(*b"644 \0\0\0\0"));
        assert_eq!(text(Form::Octal(Fill::Zeros, Terminator::NulSpace), 5000), Some(*b"011610\0 "));
        assert_eq!(text(Form::Octal(Fill::Zeros, Terminator::Nul), 1 << 21), Some(*b"\x80\0\0\0\0\x20\0\0"));
        assert_eq!(
            text(Form::Octal(Fill::Zeros, Terminator::Nul), -2),
            Some(*b"\xff\xff\xff\xff\xff\xff\xff\xfe")
        );
        assert_eq!(text(Form::Nuls, 1), None);
        assert_eq!(Form::Octal(Fill::Zeros, Terminator::Nul).most(8), Some(0o7777777));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value: i64, shift in 0..63u32) {
            let value = value >> shift;
            for (form, width) in Form::all().flat_map(|form| [(form, 8), (form, 12)]) {
                let mut field = [0; 12];
                if form.write(&mut field[..width], value).is_some() {
                    prop_assert_eq!(number(&field[..width]), Some(value));
                }
            }
        }
    }
}
