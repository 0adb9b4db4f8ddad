//! What an HTTP request said.

use hyper::Version;
use hyper::http::request::Parts;
use serde_json::json;

use super::lossy;
use super::object::Object;

/// What an HTTP request said: its first line, and its header fields in their order.
#[derive(Debug)]
pub(crate) struct HttpSeen {
    version: Version,
    method: String,
    path: String,
    authority: Option<String>,
    fields: Vec<(String, String)>,
}

impl HttpSeen {
    /// The request with this head. Of HTTP/1.1, `raw` begins with the request as it came, which has
    /// the case of the names, and the order of all fields; without it, fields of one name stand
    /// together.
    pub(crate) fn of(head: &Parts, raw: Option<&[u8]>) -> Self {
        let parsed = || {
            let fields = head.headers.iter();
            fields.map(|(name, value)| (name.to_string(), lossy(value.as_bytes()))).collect()
        };
        HttpSeen {
            version: head.version,
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            authority: head.uri.authority().map(ToString::to_string),
            fields: raw.and_then(written).unwrap_or_else(parsed),
        }
    }

    pub(super) fn to_json(&self) -> String {
        let mut http = Object::new();
        // HTTP/2 has no minor version (RFC 9113 section 3.2).
        let version = match self.version {
            Version::HTTP_2 => "HTTP/2".to_owned(),
            version => format!("{version:?}"),
        };
        http.put("version", version);
        http.put("method", &*self.method);
        http.put("path", &*self.path);
        http.put_some("authority", &self.authority);
        http.put("fields", json!(self.fields));
        http.end()
    }
}

/// The header fields of an HTTP/1.1 request as they were written.
fn written(raw: &[u8]) -> Option<Vec<(String, String)>> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(raw) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return None,
    }
    let fields = request.headers.iter();
    Some(fields.map(|field| (field.name.to_owned(), lossy(field.value))).collect())
}
