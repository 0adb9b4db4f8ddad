//! Answers for clients that speak another protocol than the port does, where one can be given.

/// Whether `head` is the beginning of an HTTP/1.1 request: one of the methods of RFC 9110 section 9,
/// or PATCH (RFC 5789).
pub(super) fn is_http_request(head: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] = [
        b"GET ",
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"CONNECT ",
        b"OPTIONS ",
        b"TRACE ",
        b"PATCH ",
    ];
    METHODS.iter().any(|method| head.starts_with(method))
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
