//! What a TLS handshake showed.

use serde_json::{Map, Value, json};

use crate::tls::{client_hello, ja4};

/// What a TLS handshake showed: what the client offered, and what was negotiated.
#[derive(Debug, Default)]
pub(crate) struct TlsSeen {
    sni: Option<String>,
    alpn_offered: Vec<String>,
    /// The fingerprint, and the same with its lists written out.
    ja4: Option<(String, String)>,
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
        TlsSeen {
            sni: hello.sni().map(str::to_owned),
            alpn_offered: hello.alpn().map(lossy).collect(),
            ja4: Some((fingerprint.hash, fingerprint.raw)),
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

    pub(super) fn to_json(&self) -> Value {
        let mut tls = Map::new();
        let mut put = |key: &str, value: Value| tls.insert(key.to_owned(), value);
        if let Some((version, cipher, group)) = &self.negotiated {
            put("version", json!(version));
            put("cipher", json!(cipher));
            put("group", json!(group));
        }
        put("alpn_offered", json!(self.alpn_offered));
        put("resumed", json!(self.resumed));
        for (key, value) in [("sni", &self.sni), ("alpn", &self.alpn), ("client", &self.client)] {
            if let Some(value) = value {
                put(key, json!(value));
            }
        }
        if let Some((hashed, raw)) = &self.ja4 {
            put("ja4", json!(hashed));
            put("ja4_r", json!(raw));
        }
        tls.into()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
