//! Why HTTP failed, in words for people. The words of hyper and h2 are about their own insides.

use std::error::Error;
use std::io;

use h2::Reason;

use super::Peer;

/// Why no HTTP/1.1 request could be read. `first` is the first byte that came.
pub(crate) fn of_http1(error: &hyper::Error, first: Option<u8>) -> String {
    if error.is_incomplete_message() {
        return "the client closed the connection within its request".to_owned();
    }
    if error.is_parse_too_large() {
        return "its head is too large".to_owned();
    }
    if error.is_parse() {
        return match first {
            Some(byte) if byte.is_ascii_alphabetic() => "it breaks the syntax of HTTP/1.1",
            _ => "what came is not HTTP",
        }
        .to_owned();
    }
    match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(error) => error.to_string(),
        None if error.is_timeout() => "it took too long".to_owned(),
        None => "the connection failed".to_owned(),
    }
}

/// Why an HTTP/2 connection to `peer` failed. The error of the stream below it is kept as it is.
pub(crate) fn of_http2(error: h2::Error, peer: Peer) -> io::Error {
    let who = match (error.is_remote(), error.is_go_away()) {
        (true, true) => format!("the {peer} ended the HTTP/2 connection with GOAWAY"),
        (true, false) => format!("the {peer} reset a stream"),
        (false, _) => format!("the {peer} broke the rules of HTTP/2"),
    };
    let words = error.reason().map_or_else(
        || who.clone(),
        |reason| match http2_code(reason) {
            Some(name) => format!("{who}: {name}"),
            None => format!("{who}: error code {:#x}", u32::from(reason)),
        },
    );
    match error.into_io() {
        // h2 gives a text of its own to what the system has said.
        Some(error) if error.kind() == io::ErrorKind::ConnectionReset => error.kind().into(),
        Some(error) => error,
        None => io::Error::other(words),
    }
}

/// The name of an error code (RFC 9113 section 7).
pub(crate) fn http2_code(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::NO_ERROR => "NO_ERROR",
        Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
        Reason::STREAM_CLOSED => "STREAM_CLOSED",
        Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        Reason::REFUSED_STREAM => "REFUSED_STREAM",
        Reason::CANCEL => "CANCEL",
        Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR",
        Reason::CONNECT_ERROR => "CONNECT_ERROR",
        Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
        Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_errors_have_the_names_of_the_rfc() {
        let said = |reason| of_http2(h2::Error::from(reason), Peer::Client).to_string();
        assert_eq!(
            said(Reason::FRAME_SIZE_ERROR),
            "the client broke the rules of HTTP/2: FRAME_SIZE_ERROR"
        );
        assert_eq!(
            said(Reason::from(0x99)),
            "the client broke the rules of HTTP/2: error code 0x99"
        );
    }
}
