//! Negotiates permessage-deflate (RFC 7692 section 7.1) so that the echo needs no compressor: the
//! client's compressed bytes are sent back unchanged.
//!
//! This works only if the client's decompressor can read everything that its own compressor may
//! produce: the parameters of both directions have to agree.
//!
//! - The server always asks for `client_no_context_takeover`, which it may do whatever was offered
//!   (section 7.1.1.2; a client that does not support it fails the connection). Each message is
//!   then compressed on its own, which any decompressor can read, including one that asked for
//!   `server_no_context_takeover`. It also saves the server a 32 KiB window per connection, which
//!   inflating the next text message would need.
//! - `server_max_window_bits=N` limits the window of the client's decompressor, so its compressor
//!   has to use the same limit. The server may ask for that only if the client has offered
//!   `client_max_window_bits`. N = 8 is declined, because zlib then compresses with 9.

/// The response to the first offer that the server can accept; `None` if there is none.
pub(super) fn accept(offers: &[&str]) -> Option<String> {
    offers.iter().find_map(|offer| accept_one(offer))
}

fn accept_one(offer: &str) -> Option<String> {
    let mut parts = offer.split(';').map(|part| part.trim_matches([' ', '\t']));
    if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
        return None;
    }
    let offer = Offer::parse(parts)?;
    let mut answer = "permessage-deflate; client_no_context_takeover".to_owned();
    if offer.server_no_context_takeover {
        answer += "; server_no_context_takeover";
    }
    if let Some(bits) = offer.server_max_window_bits {
        answer += &format!("; server_max_window_bits={bits}");
        // No window is larger than 15 bits, so a limit of 15 asks nothing of the client.
        if bits < 15 {
            let ClientWindow::UpTo(client) = offer.client_max_window_bits else { return None };
            let client = client.min(bits);
            if client < 9 {
                return None;
            }
            answer += &format!("; client_max_window_bits={client}");
        }
    }
    Some(answer)
}

/// The parameters of one offer.
#[derive(Debug)]
struct Offer {
    server_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: ClientWindow,
}

/// Whether the client's window can be limited.
#[derive(Debug)]
enum ClientWindow {
    /// Not offered.
    Fixed,
    /// Offered, with this upper limit.
    UpTo(u8),
}

impl Offer {
    /// Parses the parameters. `None` if one is unknown, repeated or has an invalid value: such an
    /// offer has to be declined (section 7.1).
    fn parse<'a>(parameters: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut offer = Offer {
            server_no_context_takeover: false,
            server_max_window_bits: None,
            client_max_window_bits: ClientWindow::Fixed,
        };
        let mut seen = Vec::new();
        for parameter in parameters {
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquote(value.trim()))),
                None => (parameter, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("client_no_context_takeover", None) => {}
                ("server_no_context_takeover", None) => offer.server_no_context_takeover = true,
                ("server_max_window_bits", Some(value)) => {
                    offer.server_max_window_bits = Some(window_bits(value)?);
                }
                ("client_max_window_bits", None) => {
                    offer.client_max_window_bits = ClientWindow::UpTo(15);
                }
                ("client_max_window_bits", Some(value)) => {
                    offer.client_max_window_bits = ClientWindow::UpTo(window_bits(value)?);
                }
                _ => return None,
            }
        }
        Some(offer)
    }
}

/// A value may be a token or a quoted string (RFC 6455 section 9.1).
fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// Parses a window size: decimal, from 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    let is_decimal = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
    value.parse().ok().filter(|bits| is_decimal && (8..=15).contains(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_get_the_same_parameters() {
        const ACCEPTED: &str = "permessage-deflate; client_no_context_takeover";
        let cases = [
            ("permessage-deflate", Some(String::new())),
            ("Permessage-Deflate; client_max_window_bits", Some(String::new())),
            ("permessage-deflate; client_max_window_bits=10", Some(String::new())),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                Some("; server_no_context_takeover".to_owned()),
            ),
            // The client's compressor could not be limited.
            ("permessage-deflate; server_max_window_bits=10", None),
            (
                "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
                Some("; server_max_window_bits=10; client_max_window_bits=10".to_owned()),
            ),
            (
                "permessage-deflate; client_max_window_bits=\"9\"; server_max_window_bits=12",
                Some("; server_max_window_bits=12; client_max_window_bits=9".to_owned()),
            ),
            ("permessage-deflate; client_max_window_bits; server_max_window_bits=8", None),
            (
                "permessage-deflate; server_max_window_bits=15",
                Some("; server_max_window_bits=15".to_owned()),
            ),
            // Invalid under RFC 7692.
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=08", None),
            ("permessage-deflate; server_max_window_bits=+9", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None),
            ("permessage-deflate; unknown", None),
            ("x-webkit-deflate-frame", None),
        ];
        for (offer, parameters) in cases {
            let expected = parameters.map(|parameters| ACCEPTED.to_owned() + &parameters);
            assert_eq!(accept(&[offer]), expected, "{offer}");
        }
    }

    #[test]
    fn an_unacceptable_offer_does_not_rule_out_the_next_one() {
        let offers = ["permessage-deflate; server_max_window_bits=10", "permessage-deflate"];
        assert!(accept(&offers).is_some());
        assert!(accept(&["other", "permessage-bzip2"]).is_none());
        assert!(accept(&[]).is_none());
    }
}
