//! What a server saw, in words and as JSON, and what has changed on the way.

use echo_server::probe::{Arrival, EchoCheck, Facts, Target};
use serde_json::{Value, json};

use super::different;
use crate::flags;
use crate::visible::visible;

/// A line for people.
pub(super) enum Line {
    Plain(String),
    /// What is not as it should be.
    Wrong(String),
}

/// What the server saw, what has changed, and whether it echoes.
pub(super) fn words(arrival: &Arrival) -> Vec<Line> {
    // Standard error says why there are none.
    let Ok(facts) = &arrival.facts else { return Vec::new() };
    let mut lines: Vec<Line> =
        seen(facts).into_iter().map(|line| Line::Plain(visible(&line))).collect();
    match arrival.differences.is_empty() {
        true => lines.push(Line::Plain("nothing that it tells has changed on the way".to_owned())),
        false => lines.extend(
            arrival.differences.iter().map(|change| Line::Plain(visible(&change.to_string()))),
        ),
    }
    lines.extend(arrival.echo.as_ref().map(|echo| match echo {
        EchoCheck::Exact(size) => {
            let bytes = if *size == 1 { "byte" } else { "bytes" };
            let were = if *size == 1 { "it was" } else { "they were" };
            Line::Plain(format!("it echoes: {size} {bytes} came back as {were} sent"))
        }
        EchoCheck::ProxyHeader => Line::Wrong(why_not_echoed(echo)),
        _ => Line::Wrong(visible(&format!("it does not echo: {}", why_not_echoed(echo)))),
    }));
    lines
}

fn why_not_echoed(echo: &EchoCheck) -> String {
    match echo {
        EchoCheck::Missing(why) => why.clone(),
        EchoCheck::Different(None) => {
            "what came back is text for binary, or binary for text".to_owned()
        }
        EchoCheck::Different(Some(difference)) => {
            format!("what came back differs{}", different(difference))
        }
        EchoCheck::ProxyHeader => {
            "the PROXY header was not read: it came back in front of the echo".to_owned()
        }
        _ => "what came back differs".to_owned(),
    }
}

/// What the object has beside the connection.
pub(super) fn json(target: &Target, arrival: &Arrival) -> Value {
    let facts = arrival.facts.as_ref();
    let differences: Vec<Value> = arrival
        .differences
        .iter()
        .map(|change| {
            json!({
                "kind": change.kind.to_string(), "name": change.field, "sent": change.sent,
                "arrived": change.arrived, "what": change.to_string(),
            })
        })
        .collect();
    let (echoed, why_not_echoed) = match &arrival.echo {
        None => (None, None),
        Some(EchoCheck::Exact(_)) => (Some(true), None),
        Some(echo) => (Some(false), Some(why_not_echoed(echo))),
    };
    json!({
        "facts": facts.ok().map(Facts::json),
        "why": facts.err().map(|why| flags::no_facts(target, why)),
        "differences": differences, "echoed": echoed, "why_not_echoed": why_not_echoed,
    })
}

/// The facts, a line for each part.
fn seen(facts: &Facts) -> Vec<String> {
    let mut lines = vec![who(facts)];
    let json = facts.json();
    if let Some(proxy) = json.get("proxy") {
        lines.extend(announced(facts, proxy));
    }
    if json.get("tls").is_some() {
        lines.push(format!("TLS there: {}", tls(facts).join("; ")));
        lines.extend(facts.text("/tls/ja4").map(|ja4| format!("JA4: {ja4}")));
        lines.extend(facts.text("/tls/ja4_r").map(|raw| format!("JA4_r: {raw}")));
    }
    if json.get("http").is_some() {
        let part = |pointer| facts.text(pointer).unwrap_or("?");
        let [method, path] = [part("/http/method"), part("/http/path")];
        let authority = facts.text("/http/authority").map(|name| format!(" of {name}"));
        let authority = authority.unwrap_or_default();
        lines.push(format!("HTTP there: {method} {path} {}{authority}", part("/http/version")));
        lines.extend(facts.fields().iter().map(|(name, value)| format!("  {name}: {value}")));
    }
    if json.get("ip").is_some() {
        let number = |name, pointer| facts.number(pointer).map(|number| format!("{name} {number}"));
        let ecn = facts.text("/ip/ecn").map(str::to_owned);
        let known = [number("TTL", "/ip/ttl"), number("DSCP", "/ip/dscp"), ecn];
        lines.push(format!(
            "IP there: {}",
            known.into_iter().flatten().collect::<Vec<_>>().join(", ")
        ));
    }
    lines.extend(facts.number("/tcp/mss").map(|mss| format!("TCP there: MSS {mss}")));
    lines
}

/// Who was seen, by whom, and when.
fn who(facts: &Facts) -> String {
    let mut line = format!("seen as {}", facts.text("/peer").unwrap_or("?"));
    let ids = [("uid", "/unix/uid"), ("pid", "/unix/pid")];
    for (name, id) in ids.map(|(name, pointer)| (name, facts.number(pointer))) {
        line += &id.map(|id| format!(" {name} {id}")).unwrap_or_default();
    }
    line += &facts.text("/local").map(|local| format!(" at {local}")).unwrap_or_default();
    line += &facts.protocol().map(|protocol| format!(", {protocol}")).unwrap_or_default();
    let number = facts.number("/connection");
    line += &number.map(|number| format!(", connection {number}")).unwrap_or_default();
    line += &facts.text("/time").map(|time| format!(", {time}")).unwrap_or_default();
    line
}

/// What a PROXY header has announced.
fn announced(facts: &Facts, proxy: &Value) -> Vec<String> {
    let part = |name: &str| facts.text(&format!("/proxy/{name}"));
    let version = facts.number("/proxy/version").unwrap_or_default();
    let mut line = format!("PROXY header of version {version}");
    line += &part("from").map(|from| format!(" from {from}")).unwrap_or_default();
    line += &match (part("command"), part("source"), part("destination")) {
        (Some("local"), ..) => ": the proxy's own connection".to_owned(),
        (_, Some(source), Some(destination)) => {
            let transport = part("transport").unwrap_or("?");
            format!(": {transport} from {source} to {destination}")
        }
        _ => ": it announces nobody".to_owned(),
    };
    let told = ["from", "version", "command", "transport", "source", "destination"];
    let more = proxy.as_object().into_iter().flatten();
    let more = more.filter(|(name, _)| !told.contains(&name.as_str()));
    std::iter::once(line)
        .chain(more.flat_map(|(name, value)| part_of_header(name, value)))
        .collect()
}

/// A part of a PROXY header: what TLS told the proxy, and other TLVs, have parts of their own.
fn part_of_header(name: &str, value: &Value) -> Vec<String> {
    let line = |name: &str, value: &Value| match value {
        Value::String(text) => format!("  {name}: {text}"),
        other => format!("  {name}: {other}"),
    };
    match (name, value) {
        ("ssl", Value::Object(parts)) => {
            parts.iter().map(|(part, value)| line(&format!("ssl {part}"), value)).collect()
        }
        ("tlvs", Value::Array(tlvs)) => {
            let one = |tlv: &Value| match (tlv["type"].as_str(), &tlv["value"]) {
                (Some(kind), value @ Value::String(_)) => line(&format!("tlv {kind}"), value),
                _ => line("tlv", tlv),
            };
            tlvs.iter().map(one).collect()
        }
        _ => vec![line(name, value)],
    }
}

/// What TLS has negotiated at the server's end.
fn tls(facts: &Facts) -> Vec<String> {
    let part = |name| facts.text(&format!("/tls/{name}"));
    let negotiated = ["version", "cipher", "group"].into_iter().filter_map(part);
    let offered = facts.alpn_offered();
    let mut parts = vec![negotiated.collect::<Vec<_>>().join(", ")];
    parts.push(part("sni").map_or_else(|| "no SNI".to_owned(), |name| format!("SNI {name}")));
    parts.push(match (part("alpn"), offered.is_empty()) {
        (None, true) => "no ALPN".to_owned(),
        (None, false) => format!("ALPN none of {}", offered.join(", ")),
        (Some(name), true) => format!("ALPN {name}"),
        (Some(name), false) => format!("ALPN {name} of {}", offered.join(", ")),
    });
    if facts.json().pointer("/tls/resumed") == Some(&Value::Bool(true)) {
        parts.push("a resumed session".to_owned());
    }
    parts.extend(part("client").map(|subject| format!("client certificate of {subject}")));
    parts
}
