//! Text of the page: escaped, and times and names as people read them.

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Text within HTML or an attribute's quotes.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Those that change the direction of writing would change that of the text around, too.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => f.write_char(' '),
            c if c.is_control() => f.write_char(' '),
            c => f.write_char(c),
        })
    }
}

/// A number of microseconds, to three digits.
pub(super) struct Micros(pub(super) u64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0 as f64 / 1000.0;
        match self.0 {
            0..1_000 => write!(f, "{} µs", self.0),
            1_000..10_000 => write!(f, "{millis:.2} ms"),
            10_000..100_000 => write!(f, "{millis:.1} ms"),
            100_000..1_000_000 => write!(f, "{millis:.0} ms"),
            _ => write!(f, "{:.2} s", millis / 1000.0),
        }
    }
}

/// How long something has lasted, in two units, or in as many as the precision says.
pub(super) struct Age(pub(super) u64);

impl Age {
    /// Of what has been so since a time in seconds since 1970.
    pub(super) fn since(since: u64, now: SystemTime) -> Age {
        Age(now.duration_since(time(since)).unwrap_or_default().as_secs())
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
        let largest = UNITS.iter().position(|(unit, _)| self.0 >= *unit).unwrap_or(3);
        let (unit, name) = UNITS[largest];
        write!(f, "{} {name}", self.0 / unit)?;
        match UNITS.get(largest + 1) {
            Some((smaller, name)) if self.0 % unit >= *smaller && f.precision() != Some(1) => {
                write!(f, " {} {name}", self.0 % unit / smaller)
            }
            _ => Ok(()),
        }
    }
}

/// A time in seconds since 1970; one that is too late for a clock is the last that fits.
pub(super) fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX)))
}

/// A time of day, with the date if it is not that of `now`.
pub(super) fn clock(time: SystemTime, now: SystemTime) -> String {
    let (time, now) =
        [time, now].map(|time| humantime::format_rfc3339_seconds(time).to_string()).into();
    let (date, of_day) = time.split_once('T').unwrap_or(("", &time));
    let of_day = of_day.trim_end_matches('Z');
    if now.starts_with(date) { format!("{of_day} UTC") } else { format!("{date} {of_day} UTC") }
}

/// A key that sorts numbers within names by their value: `h2` comes before `h10`.
pub(super) fn natural(name: &str) -> Vec<Part<'_>> {
    let is_digit = |c: &char| c.is_ascii_digit();
    name.as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .map(|part| match std::str::from_utf8(part) {
            Ok(digits) if digits.chars().all(|c| is_digit(&c)) => {
                let digits = digits.trim_start_matches('0');
                Part::Number(digits.len(), digits)
            }
            _ => Part::Text(part),
        })
        .collect()
}

/// A part of a name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part<'a> {
    /// The digits and how many there are, which compare as their value does.
    Number(usize, &'a str),
    Text(&'a [u8]),
}

/// Names with commas between them, escaped, and so many at most.
pub(super) struct List<'a>(pub(super) &'a BTreeSet<&'a str>, pub(super) usize);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<_> = self.0.iter().collect();
        names.sort_by_key(|name| natural(name));
        for (at, name) in names.iter().take(self.1).enumerate() {
            let before = if at == 0 { "" } else { ", " };
            write!(f, "{before}{}", Escaped(name))?;
        }
        match names.len().saturating_sub(self.1) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_is_neither_markup_nor_a_change_of_direction() {
        let text = Escaped("<a href='x'>&\"\u{202e}\n").to_string();
        assert_eq!(text, "&lt;a href=&#39;x&#39;&gt;&amp;&quot;  ");
    }

    #[test]
    fn times_are_short() {
        let times = [7, 1_234, 56_789, 123_456, 2_000_000].map(|micros| Micros(micros).to_string());
        assert_eq!(times, ["7 µs", "1.23 ms", "56.8 ms", "123 ms", "2.00 s"]);
        let ages = [0, 59, 60, 3_661, 86_400 + 7_200].map(|seconds| Age(seconds).to_string());
        assert_eq!(ages, ["0 s", "59 s", "1 min", "1 h 1 min", "1 d 2 h"]);
        assert_eq!(format!("{:.1}", Age(3_661)), "1 h");
        assert_eq!(Age::since(u64::MAX, time(0)).0, 0);
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        assert_eq!(clock(time(86_399), time(100)), "23:59:59 UTC");
        assert_eq!(clock(time(100), time(86_400)), "1970-01-01 00:01:40 UTC");
    }

    #[test]
    fn names_are_sorted_as_people_count() {
        let mut names = ["h10", "h9", "10.0.0.10", "10.0.0.9", "h09", "h"];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names, ["10.0.0.9", "10.0.0.10", "h", "h9", "h09", "h10"]);
    }

    #[test]
    fn long_lists_are_cut() {
        let names = ["h1", "h2", "h10"].into();
        assert_eq!(List(&names, 2).to_string(), "h1, h2 and 1 more");
        assert_eq!(List(&names, 3).to_string(), "h1, h2, h10");
    }
}
