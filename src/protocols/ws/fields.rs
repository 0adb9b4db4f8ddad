//! HTTP fields whose value is a list (RFC 9110 section 5.6).

use hyper::HeaderMap;
use hyper::header::HeaderName;

/// The non-empty elements of all fields called `name`. It splits at every comma, since no element
/// that we need can contain a quoted one.
pub(super) fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

/// Whether one of the elements is `wanted`, ignoring ASCII case.
pub(super) fn has_element(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// Whether `text` is a token (RFC 9110 section 5.6.2). A field name is one, so hyper can check it.
pub(super) fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_only_token_characters() {
        for byte in 0..=127_u8 {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&format!("a{}z", char::from(byte))), expected, "{byte:#x}");
        }
        assert!(is_token("chat.V2") && !is_token("") && !is_token("grüß"));
    }
}
