//! What a TLS handshake showed.

use super::lossy;
use super::object::Object;
use crate::tls::{client_hello, ja4};

/// The most bytes of the names in an ALPN offer that are told, and of a fingerprint with its lists.
/// Browsers have some tens and some hundreds; a ClientHello has room for 64 KiB.
const MOST: usize = 4096;

/// What a TLS handshake showed: what the client offered, and what was negotiated.
#[derive(Debug, Default)]
pub(crate) struct TlsSeen {
    sni: Option<String>,
    alpn_offered: Vec<String>,
    /// The fingerprint, and the same with its lists written out, unless they are too long.
    ja4: Option<(String, Option<String>)>,
    /// Version, cipher suite and group.
    negotiated: Option<(String, String, String)>,
    alpn: Option<String>,
    resumed: bool,
    client: Option<String>,
}

impl TlsSeen {
    /// What the ClientHello at the beginning of `records` offers.
    pub(crate) fn of_hello(records: &[u8]) -> Self {
        let Some(hello) = client_hello::parse(records) else { return TlsSeen::default() };
        let fingerprint = ja4::fingerprint(&hello);
        let mut told = 0;
        let alpn = hello.alpn().take_while(|name| {
            told += name.len() + 1;
            told <= MOST
        });
        TlsSeen {
            sni: hello.sni().map(str::to_owned),
            alpn_offered: alpn.map(lossy).collect(),
            ja4: Some((fingerprint.hash, Some(fingerprint.raw).filter(|raw| raw.len() <= MOST))),
            ..TlsSeen::default()
        }
    }

    /// Adds what the handshake has negotiated: version, cipher suite and group, the ALPN protocol,
    /// whether a session was resumed, and the identity in the client's certificate.
    pub(crate) fn complete(
        &mut self,
        negotiated: (String, String, String),
        alpn: Option<&[u8]>,
        resumed: bool,
        client: Option<String>,
    ) {
        self.negotiated = Some(negotiated);
        self.alpn = alpn.map(lossy);
        self.resumed = resumed;
        self.client = client;
    }

    pub(super) fn to_json(&self) -> String {
        let mut tls = Object::new();
        if let Some((version, cipher, group)) = &self.negotiated {
            tls.put("version", &**version);
            tls.put("cipher", &**cipher);
            // A resumed TLS 1.2 session exchanges no key.
            if group != "none" {
                tls.put("group", &**group);
            }
        }
        tls.put_some("sni", &self.sni);
        tls.put_some("alpn", &self.alpn);
        tls.put("alpn_offered", &*self.alpn_offered);
        tls.put("resumed", self.resumed);
        tls.put_some("client", &self.client);
        if let Some((hashed, raw)) = &self.ja4 {
            tls.put("ja4", &**hashed);
            tls.put_some("ja4_r", raw);
        }
        tls.end()
    }
}
