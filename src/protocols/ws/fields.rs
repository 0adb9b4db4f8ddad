//! Fields whose value is a list (RFC 9110 section 5.6).

use hyper::HeaderMap;
use hyper::header::HeaderName;

/// The elements of all the fields called `name`, without those that are empty. No element that
/// matters here may hold a comma.
pub(super) fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

/// Whether one of the elements is `wanted`, in any case.
pub(super) fn has_element(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// RFC 9110 section 5.6.2. A field's name is a token, and hyper knows one when it sees it.
pub(super) fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_token_characters() {
        for byte in 0..=127_u8 {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&format!("a{}z", char::from(byte))), expected, "{byte:#x}");
        }
        assert!(is_token("chat.V2") && !is_token("") && !is_token("grüß"));
    }
}
