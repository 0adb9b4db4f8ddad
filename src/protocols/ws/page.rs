//! The page that a browser gets on a WebSocket port: a single file that loads nothing else.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use data_encoding::BASE64;
use hyper::Response;
use hyper::header::{self, HeaderValue};

const SOURCE: &str = include_str!("page.html");

/// What is served: the source without its comments and indentation.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let mut page = String::with_capacity(SOURCE.len());
    for line in SOURCE.lines().map(str::trim) {
        if !line.is_empty() && !line.starts_with("//") && !line.starts_with("/*") {
            page.push_str(line);
            page.push('\n');
        }
    }
    page
});

/// Allows only the page's own script and style, and only WebSocket connections.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src ws: wss:; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash_of("script"),
        hash_of("style"),
    );
    HeaderValue::try_from(policy).expect("a policy is ASCII")
});

/// Where the page has what the server does wrong on purpose.
const FAULTS: &str = " data-faults=\"\"";

/// The page as an HTTP response. `faults` are what the server does wrong on purpose.
pub(crate) fn response(faults: Option<&str>) -> Response<Bytes> {
    let page = match faults {
        None => Bytes::from_static(PAGE.as_bytes()),
        Some(faults) => {
            let quoted = faults.replace('&', "&amp;").replace('"', "&quot;");
            PAGE.replacen(FAULTS, &format!(" data-faults=\"{quoted}\""), 1).into()
        }
    };
    let mut response = Response::new(page);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Browsers give a cross-origin isolated page a finer clock, which makes round-trip times
    // precise.
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-embedder-policy", HeaderValue::from_static("require-corp"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The hash by which a Content-Security-Policy allows the page's only element of this name.
fn hash_of(element: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("<{element}>")).expect("the page has the element");
    let (content, _) = rest.split_once(&format!("</{element}>")).expect("the element ends");
    BASE64.encode(digest(&SHA256, content.as_bytes()).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small() {
        assert!(PAGE.len() < 42_000, "{} bytes", PAGE.len());
    }

    #[test]
    fn the_page_has_a_place_for_the_servers_faults() {
        assert_eq!(PAGE.matches(FAULTS).count(), 1);
        let page = response(Some("ws-close=1011, \"&\"")).into_body();
        let page = std::str::from_utf8(&page).unwrap();
        assert!(page.contains(" data-faults=\"ws-close=1011, &quot;&amp;&quot;\">"));
    }

    #[test]
    fn comments_are_single_lines() {
        // Only such comments can be left out by looking at one line at a time.
        for line in SOURCE.lines().map(str::trim).filter(|line| line.starts_with("/*")) {
            assert!(line.ends_with("*/"), "{line}");
        }
        // A line of a template literal could look like a comment.
        for line in SOURCE.lines() {
            assert!(line.matches('`').count() % 2 == 0, "the literal goes on: {line}");
        }
    }

    #[test]
    fn the_policy_covers_the_whole_page() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "one {element}, bare");
        }
        for forbidden in
            ["src=\"http", "src=\"//", "@import", " style=", " onclick=", "eval(", "innerHTML"]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden} does not work under the policy");
        }
        assert!(CONTENT_SECURITY_POLICY.to_str().unwrap().contains("script-src 'sha256-"));
    }
}
