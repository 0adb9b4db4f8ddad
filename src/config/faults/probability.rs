//! A probability, which is also a share of many.

use std::fmt;
use std::str::FromStr;

/// A probability: from 0, which never happens, to 1, which always does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probability(f64);

// It is never NaN.
impl Eq for Probability {}

impl Probability {
    /// What always happens.
    pub const ALWAYS: Probability = Probability(1.0);

    /// `share` of 1.
    ///
    /// # Panics
    /// If it is not from 0 to 1.
    pub fn new(share: f64) -> Self {
        Probability::checked(share).expect("a probability is from 0 to 1")
    }

    /// `share` of 100.
    ///
    /// # Panics
    /// If it is not from 0 to 100.
    pub fn percent(share: f64) -> Self {
        Probability::new(share / 100.0)
    }

    fn checked(share: f64) -> Option<Self> {
        // Adding 0 turns the -0 that the comparison lets through into 0.
        (0.0..=1.0).contains(&share).then_some(Probability(share + 0.0))
    }

    /// As a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Reads `10%` or `0.1`.
impl FromStr for Probability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let is_plain = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'-');
            text.parse::<f64>().ok().filter(|_| text.bytes().all(is_plain))
        };
        let share = match text.strip_suffix('%') {
            Some(percent) => number(percent).map(|percent| percent / 100.0),
            None => number(text),
        };
        let expected = || "expected a share, like 1% or 0.01, from 0 to 1".to_owned();
        share.and_then(Probability::checked).ok_or_else(expected)
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twelve digits hide what the conversion to binary adds to a percentage such as 0.7.
        let percent = (self.0 * 100.0 * 1e10).round() / 1e10;
        if percent == 0.0 && self.0 > 0.0 {
            return write!(f, "{:e}", self.0);
        }
        write!(f, "{percent}%")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_or_a_part_of_1() {
        for (text, share, shown) in [
            ("10%", 0.1, "10%"),
            ("0.1", 0.1, "10%"),
            ("1", 1.0, "100%"),
            ("0", 0.0, "0%"),
            ("-0", 0.0, "0%"),
            ("0.7%", 0.007, "0.7%"),
            ("1e-9", 1e-9, "0.0000001%"),
            ("1e-15", 1e-15, "1e-15"),
        ] {
            let parsed: Probability = text.parse().expect(text);
            assert!((parsed.get() - share).abs() <= share * 1e-12, "{text}");
            assert!(parsed.get().is_sign_positive(), "{text}");
            assert_eq!(parsed.to_string(), shown, "{text}");
            let again: Probability = shown.parse().expect(shown);
            assert!((again.get() - share).abs() <= share * 1e-12, "{shown}");
        }
        for text in ["", "%", "2", "101%", "-1", "NaN", "inf", "ten", "+1", "1 %"] {
            assert!(text.parse::<Probability>().is_err(), "{text}");
        }
    }
}
