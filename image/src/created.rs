//! When an image was made: the `created` of its config, a date and time as RFC 3339 has it.

use std::fmt;
use std::str::FromStr;

use toml::value::{Datetime, Offset};

/// A moment: seconds since 1970 began in UTC, and nanoseconds. Ordered by time; shown in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created {
    seconds: i64,
    nanoseconds: u32,
}

/// It is no date and time with a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time with a zone")]
pub struct NotCreated;

const DAY_SECONDS: i64 = 86_400;

impl FromStr for Created {
    type Err = NotCreated;

    fn from_str(text: &str) -> Result<Self, NotCreated> {
        // TOML's dates and times are RFC 3339's.
        let Datetime { date: Some(date), time: Some(time), offset: Some(offset) } =
            text.parse().map_err(|_| NotCreated)?
        else {
            return Err(NotCreated);
        };
        let minutes = match offset {
            Offset::Z => 0,
            Offset::Custom { minutes } => i64::from(minutes),
        };
        let days = days(i64::from(date.year), i64::from(date.month), i64::from(date.day));
        let of_day = i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second);
        let seconds = days * DAY_SECONDS + of_day - minutes * 60;
        Ok(Self { seconds, nanoseconds: time.nanosecond })
    }
}

impl fmt::Display for Created {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.seconds.div_euclid(DAY_SECONDS));
        let second = self.seconds.rem_euclid(DAY_SECONDS);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Days from 1970-01-01. Years begin in March here, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

/// Year, month and day of the day that is so many after 1970-01-01.
fn date(day: i64) -> (i64, i64, i64) {
    let mut year = 1970 + day.div_euclid(365);
    while days(year, 1, 1) > day {
        year -= 1;
    }
    let month = (1..=12).rev().find(|&month| days(year, month, 1) <= day).unwrap_or(1);
    (year, month, day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ordered_whatever_their_zone() {
        let parse = |text: &str| text.parse::<Created>();
        assert_eq!(parse("1970-01-01T00:00:00Z").unwrap(), Created { seconds: 0, nanoseconds: 0 });
        let seconds = parse("2024-02-29T12:34:56.5Z").unwrap();
        assert_eq!(seconds, Created { seconds: 1_709_210_096, nanoseconds: 500_000_000 });
        assert_eq!(parse("2024-02-29T14:34:56.500+02:00").unwrap(), seconds);
        assert!(parse("2024-02-29T12:34:56.500000001Z").unwrap() > seconds);
        for text in
            ["2024-02-29T12:34:56Z", "1999-12-31T23:59:59Z", "2000-03-01T00:00:00Z", "1969-12-31T23:59:59Z"]
        {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for text in ["", "2024-02-29", "12:00:00", "2024-02-29T12:34:56", "yesterday"] {
            assert_eq!(parse(text), Err(NotCreated), "{text}");
        }
    }

    #[test]
    fn days_and_dates_agree() {
        for day in -200_000..200_000 {
            let (year, month, of_month) = date(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }
}
