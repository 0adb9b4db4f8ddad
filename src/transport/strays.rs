//! Answers for clients that speak another protocol than the port does, where one can be given.

/// How many bytes decide whether a request begins: those of `OPTIONS` and `CONNECT`, and a blank.
pub(super) const LONGEST_METHOD: usize = 8;

/// Whether `head` is the beginning of an HTTP request: one of the methods of RFC 9110 section 9, or
/// any other in front of a version, as HTTP/2's connection preface has it, too.
pub(super) fn is_http_request(head: &[u8]) -> bool {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"CONNECT ", b"OPTIONS ", b"TRACE "];
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(head);
    let has_version = || {
        let is_method = line.first().is_some_and(u8::is_ascii_uppercase);
        is_method && line.windows(6).any(|window| window == b" HTTP/")
    };
    METHODS.iter().any(|method| head.starts_with(method)) || has_version()
}

/// An HTTP/1.1 response of text, after which the connection ends.
pub(crate) fn http_response(status: &str, text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    let response = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{text}\n"
    );
    response.into_bytes()
}
