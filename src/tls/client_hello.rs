//! Reads a `ClientHello` (RFC 8446 section 4.1.2) from the records that it came in.
//!
//! rustls shows only a part of what a client offers, and that part sorted by its own needs. Facts
//! and fingerprints need all of it, in the order of the client. Nothing here decides about a
//! connection: rustls has accepted the message before anybody asks.

use std::ops::Range;

/// The content type of a record that carries handshake messages (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 22;

/// The type of the handshake message (RFC 8446 section 4).
const CLIENT_HELLO: u8 = 1;

/// The longest body in bytes that is read. rustls accepts no handshake message that is longer.
const LONGEST: usize = 0xFFFF;

/// Types of extensions, by their names in IANA's registry.
pub(crate) mod extension {
    pub(crate) const SERVER_NAME: u16 = 0;
    pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(crate) const ALPN: u16 = 16;
    pub(crate) const SUPPORTED_VERSIONS: u16 = 43;
}

/// Reads the `ClientHello` that `records` begin with. It may be split over several records, at any
/// point (RFC 8446 section 5.1). What follows it is ignored.
///
/// `None` if it is not whole, or if it is no `ClientHello` whose lists are as long as they say. The
/// bodies of extensions are read when somebody asks for them.
pub(crate) fn parse(records: &[u8]) -> Option<ClientHello> {
    let body = message(records)?;
    let mut reader = Reader(&body);
    let legacy_version = reader.u16()?;
    let _random = reader.take(32)?;
    let session_id = reader.vector_u8()?;
    if session_id.len() > 32 {
        return None;
    }
    let cipher_suites = reader.vector_u16()?;
    if cipher_suites.len() % 2 != 0 {
        return None;
    }
    let ciphers_end = body.len() - reader.0.len();
    let _compression_methods = reader.vector_u8()?;
    // A hello may end here: versions before TLS 1.3 need no extensions (RFC 5246 section 7.4.1.2).
    let extensions = if reader.0.is_empty() { &[][..] } else { reader.vector_u16()? };
    if !reader.0.is_empty() || !are_extensions(extensions) {
        return None;
    }
    let cipher_suites = ciphers_end - cipher_suites.len()..ciphers_end;
    let extensions = body.len() - extensions.len()..body.len();
    Some(ClientHello { legacy_version, cipher_suites, extensions, body })
}

/// What a TLS client offers. Values and their order are the client's; GREASE is among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientHello {
    legacy_version: u16,
    cipher_suites: Range<usize>,
    extensions: Range<usize>,
    /// The message without its header. The ranges are in it: a list of its own for each of 16,000
    /// empty extensions would be several times as large as the message.
    body: Vec<u8>,
}

impl ClientHello {
    /// The version that a client before TLS 1.3 offers. A later one puts TLS 1.2 (0x0303) there.
    pub(crate) fn legacy_version(&self) -> u16 {
        self.legacy_version
    }

    /// The cipher suites.
    pub(crate) fn cipher_suites(&self) -> impl Iterator<Item = u16> {
        numbers(&self.body[self.cipher_suites.clone()])
    }

    /// The extensions: type and body.
    pub(crate) fn extensions(&self) -> impl Iterator<Item = (u16, &[u8])> {
        let mut reader = Reader(&self.body[self.extensions.clone()]);
        std::iter::from_fn(move || Some((reader.u16()?, reader.vector_u16()?)))
    }

    /// The body of the first extension of this type.
    pub(crate) fn extension(&self, wanted: u16) -> Option<&[u8]> {
        self.extensions().find(|(kind, _)| *kind == wanted).map(|(_, body)| body)
    }

    /// The host name of the `server_name` extension (RFC 6066 section 3).
    pub(crate) fn sni(&self) -> Option<&str> {
        const HOST_NAME: u8 = 0;
        let mut names = Reader(self.list_u16(extension::SERVER_NAME)?);
        while let Some(kind) = names.u8() {
            let name = names.vector_u16()?;
            if kind == HOST_NAME {
                return str::from_utf8(name).ok();
            }
        }
        None
    }

    /// The protocols of the ALPN extension (RFC 7301 section 3.1).
    pub(crate) fn alpn(&self) -> impl Iterator<Item = &[u8]> {
        let mut names = Reader(self.list_u16(extension::ALPN).unwrap_or_default());
        std::iter::from_fn(move || names.vector_u8())
    }

    /// The versions of the `supported_versions` extension (RFC 8446 section 4.2.1).
    pub(crate) fn supported_versions(&self) -> impl Iterator<Item = u16> {
        let body = self.extension(extension::SUPPORTED_VERSIONS).unwrap_or_default();
        numbers(Reader(body).vector_u8().unwrap_or_default())
    }

    /// The schemes of the `signature_algorithms` extension (RFC 8446 section 4.2.3).
    pub(crate) fn signature_algorithms(&self) -> impl Iterator<Item = u16> {
        numbers(self.list_u16(extension::SIGNATURE_ALGORITHMS).unwrap_or_default())
    }

    /// The list that is the body of an extension, without its length of two bytes.
    fn list_u16(&self, wanted: u16) -> Option<&[u8]> {
        Reader(self.extension(wanted)?).vector_u16()
    }
}

/// Whether a number is a GREASE value (RFC 8701 section 2): 0x0A0A, 0x1A1A and so on. Those are
/// reserved among cipher suites, extensions, groups, signature algorithms and versions.
pub(crate) fn is_grease(number: u16) -> bool {
    let [one, other] = number.to_be_bytes();
    one == other && one & 0x0F == 0x0A
}

/// Whether the name of a protocol is a GREASE value: the same numbers, as two bytes.
pub(crate) fn is_grease_name(name: &[u8]) -> bool {
    <[u8; 2]>::try_from(name).is_ok_and(|name| is_grease(u16::from_be_bytes(name)))
}

/// The body of the `ClientHello`, put together from its fragments.
fn message(records: &[u8]) -> Option<Vec<u8>> {
    let mut records = Reader(records);
    let mut message = fragment(&mut records)?.to_vec();
    // The header of a message may be split, too.
    while message.len() < 4 {
        message.extend_from_slice(fragment(&mut records)?);
    }
    let length = u32::from_be_bytes([0, message[1], message[2], message[3]]) as usize;
    if message[0] != CLIENT_HELLO || length > LONGEST {
        return None;
    }
    while message.len() < 4 + length {
        message.extend_from_slice(fragment(&mut records)?);
    }
    message.truncate(4 + length);
    message.drain(..4);
    Some(message)
}

/// The next record's part of a handshake message. A record's version is to be ignored (RFC 8446
/// section 5.1). A fragment may not be empty, and another type of record may not come between two
/// of the same message.
fn fragment<'a>(records: &mut Reader<'a>) -> Option<&'a [u8]> {
    if records.u8()? != HANDSHAKE {
        return None;
    }
    let _legacy_record_version = records.u16()?;
    records.vector_u16().filter(|fragment| !fragment.is_empty())
}

/// Whether these bytes are whole extensions, and nothing else.
fn are_extensions(bytes: &[u8]) -> bool {
    let mut reader = Reader(bytes);
    while !reader.0.is_empty() {
        if reader.u16().and_then(|_| reader.vector_u16()).is_none() {
            return false;
        }
    }
    true
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// What is left to read. Each method takes from its beginning, or takes nothing that can be relied
/// upon and returns `None` if that is too short.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector (RFC 8446 section 3.4) whose length has one byte.
    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A vector whose length has two bytes.
    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
pub(super) mod tests;
