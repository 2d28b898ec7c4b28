//! Pax records: `length key=value\n`, and the numbers and times in them.

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'t> {
    pub key: &'t [u8],
    pub value: &'t [u8],
}

/// Records of an extension header's data.
///
/// # Errors
/// A record is malformed, as Go's `archive/tar` sees it.
pub fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let (record, rest) = record(data)?;
        records.push(record);
        data = rest;
    }
    Ok(records)
}

fn record(data: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    const LENGTH: &str = "length of a pax record is wrong";
    let space = data.iter().position(|&byte| byte == b' ').ok_or(LENGTH)?;
    let length = integer(&data[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(LENGTH)?;
    if length < 5 || length > data.len() || length <= space + 1 {
        return Err(LENGTH);
    }
    let (record, rest) = data.split_at(length);
    let Some((b'\n', record)) = record[space + 1..].split_last() else {
        return Err("pax record does not end in a line feed");
    };
    let equals = record.iter().position(|&byte| byte == b'=').ok_or("pax record has no equals sign")?;
    let record = Record { key: &record[..equals], value: &record[equals + 1..] };
    if record.key.is_empty() {
        return Err("pax record has no key");
    }
    let checked = match record.key {
        b"path" | b"linkpath" | b"uname" | b"gname" => record.value,
        key => key,
    };
    if checked.contains(&0) {
        return Err("pax record has a NUL in a name");
    }
    Ok((record, rest))
}

/// Appends a record.
pub fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // Space, equals sign and line feed; then the length's own digits, which may make it one digit longer.
    let bare = key.len() + value.len() + 3;
    let mut length = bare + decimal_digits(bare);
    if bare + decimal_digits(length) > length {
        length = bare + decimal_digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimal_digits(value: usize) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// A decimal number with an optional sign.
pub fn integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |value, digit| {
        let digit = i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        let value = value.checked_mul(10)?;
        if negative { value.checked_sub(digit) } else { value.checked_add(digit) }
    })
}

/// Seconds, rounded down, and nanoseconds of a time such as `-1.5`; digits after the ninth are dropped.
pub fn time(text: &[u8]) -> Option<(i64, u32)> {
    let dot = text.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = dot.map_or((text, &[][..]), |dot| (&text[..dot], &text[dot + 1..]));
    let seconds = integer(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanoseconds = digits.fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
    if nanoseconds > 0 && whole.starts_with(b"-") {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

/// How many digits a time has after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeForm {
    /// As many as it takes, but at least so many; no point when none.
    Trimmed(u8),
    /// Always so many.
    Fixed(u8),
}

/// Writes a time, the inverse of [`time`]; `None` when the form drops digits.
pub fn put_time(seconds: i64, nanoseconds: u32, form: TimeForm) -> Option<String> {
    // The sign stands for the whole number, so the magnitude of a negative time counts its fraction the other way.
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 0) => ("-", seconds.unsigned_abs(), 0),
        (true, _) => ("-", seconds.unsigned_abs() - 1, 1_000_000_000u32.checked_sub(nanoseconds)?),
        (false, _) => ("", seconds.unsigned_abs(), nanoseconds),
    };
    let digits = format!("{nanoseconds:09}");
    let needed = digits.trim_end_matches('0').len();
    let count = match form {
        TimeForm::Trimmed(least) => needed.max(usize::from(least)),
        TimeForm::Fixed(count) => usize::from(count),
    };
    let fraction = digits.get(..count).filter(|_| count >= needed)?;
    Some(if count == 0 { format!("{sign}{seconds}") } else { format!("{sign}{seconds}.{fraction}") })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_come_back() {
        for length in (0..120).chain(970..1010) {
            let mut bytes = Vec::new();
            put_record(&mut bytes, b"key", &vec![b'v'; length]);
            put_record(&mut bytes, b"k", b"=\n\0");
            let records = records(&bytes).unwrap();
            assert_eq!((records[0].key, records[0].value.len()), (&b"key"[..], length));
            assert_eq!(records[1], Record { key: b"k", value: b"=\n\0" });
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            "",
            "5",
            "5 a=",
            "6 a=b",
            "9 a=b\n",
            "6 a=bc",
            "4 =\n",
            "5 =b\n",
            "6 abc\n",
            "x a=b\n",
            "12 path=a\0b\n",
        ] {
            assert_eq!(records(bytes.as_bytes()).is_err(), !bytes.is_empty(), "{bytes:?}");
        }
    }

    #[test]
    fn times() {
        let cases = [
            ("0", 0, 0),
            ("-1", -1, 0),
            ("-0.5", -1, 500_000_000),
            ("-1.000000001", -2, 999_999_999),
            ("1.1234567899", 1, 123_456_789),
        ];
        for (text, seconds, nanoseconds) in cases {
            assert_eq!(time(text.as_bytes()), Some((seconds, nanoseconds)), "{text}");
        }
        for text in ["", ".5", "-", "1.x", "9223372036854775808"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
        assert_eq!(put_time(5, 0, TimeForm::Trimmed(1)).as_deref(), Some("5.0"));
        assert_eq!(put_time(5, 120_000_000, TimeForm::Fixed(9)).as_deref(), Some("5.120000000"));
        assert_eq!(put_time(5, 120_000_000, TimeForm::Fixed(1)), None);
    }

    proptest! {
        #[test]
        fn times_come_back(seconds: i64, nanoseconds in 0..1_000_000_000u32) {
            let text = put_time(seconds, nanoseconds, TimeForm::Trimmed(0)).unwrap();
            if seconds != i64::MIN || nanoseconds == 0 {
                prop_assert_eq!(time(text.as_bytes()), Some((seconds, nanoseconds)));
            }
        }
    }
}
