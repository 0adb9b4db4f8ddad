//! The SHA-256 fingerprint of a certificate, which people compare, and trust it by.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

/// The SHA-256 fingerprint of a certificate: the hash of its DER form. It is shown as
/// `openssl x509 -fingerprint -sha256` shows it.
///
/// ```
/// use echo_server::Fingerprint;
///
/// let hexadecimal = "0123456789abcdef".repeat(4);
/// let fingerprint: Fingerprint = hexadecimal.parse()?;
/// assert!(fingerprint.to_string().starts_with("01:23:45:67:89:AB:CD:EF:"));
/// assert_eq!(format!("sha256={fingerprint}").parse(), Ok(fingerprint));
/// # Ok::<(), echo_server::FingerprintError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

/// Why a text is not a [`Fingerprint`]. Its text is what is wrong, without the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// It has another length.
    #[error("a SHA-256 fingerprint has 64 hexadecimal digits, and this has {0}")]
    Length(usize),
    /// It has a character that is neither a hexadecimal digit nor a colon.
    #[error("'{0}' is not a hexadecimal digit")]
    Digit(char),
}

impl Fingerprint {
    /// The fingerprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Fingerprint(bytes)
    }
}

/// With colons or without, in either case, and perhaps with the `sha256=` of the server's log or
/// the `SHA256 Fingerprint=` of openssl before it.
impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let text = match text.split_once('=') {
            Some((name, digits)) if name.to_ascii_lowercase().starts_with("sha256") => digits,
            _ => text,
        };
        let digits: Vec<char> = text.trim().chars().filter(|c| *c != ':').collect();
        let value = |c: &char| c.to_digit(16).ok_or(FingerprintError::Digit(*c));
        let digits = digits.iter().map(value).collect::<Result<Vec<u32>, _>>()?;
        if digits.len() != 64 {
            return Err(FingerprintError::Length(digits.len()));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Fingerprint(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at > 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

/// As it is shown.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_taken_as_it_is_shown_anywhere() {
        let fingerprint = Fingerprint::of(b"abc");
        let shown = fingerprint.to_string();
        assert!(shown.starts_with("BA:78:16:BF:8F:01:CF:EA:"), "{shown}");
        for text in [
            shown.clone(),
            shown.to_lowercase(),
            shown.replace(':', ""),
            format!("sha256={shown}"),
            format!("sha256 Fingerprint={shown}"),
            format!("SHA256 Fingerprint={}\n", shown.to_lowercase()),
        ] {
            assert_eq!(text.parse(), Ok(fingerprint), "{text}");
        }
        for (text, problem) in [
            (&shown[..5], FingerprintError::Length(4)),
            ("", FingerprintError::Length(0)),
            ("sha1=zz", FingerprintError::Digit('s')),
            ("sha256//AbC=", FingerprintError::Length(0)),
        ] {
            assert_eq!(text.parse::<Fingerprint>(), Err(problem), "{text}");
        }
    }
}
