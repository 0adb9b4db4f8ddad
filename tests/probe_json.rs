//! The probe's JSON is what docs/probe-json.md says, and its numbers agree with each other.

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Output;

use common::binary::{Running, command};
use common::impair::{Wrong, wrong_tcp, wrong_udp};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

/// The fields of each section of the document, and their types.
fn schema() -> BTreeMap<String, BTreeMap<String, String>> {
    let document = std::fs::read_to_string("docs/probe-json.md").unwrap();
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for section in document.split("\n## ").skip(1) {
        let (name, text) = section.split_once('\n').unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
        let rows = rows.filter(|(field, _)| !matches!(*field, "field" | "---"));
        let rows = rows
            .map(|(field, rest)| (field.to_owned(), rest.split_once(" |").unwrap().0.to_owned()));
        sections.insert(name.to_owned(), rows.collect());
    }
    let summary = sections["summary"].clone();
    sections.get_mut("interim").unwrap().extend(summary);
    sections
}

/// Compares the fields of `object` with those that are documented in these sections.
fn check(object: &Value, sections: &[&str], schema: &BTreeMap<String, BTreeMap<String, String>>) {
    let documented: BTreeMap<_, _> = sections.iter().flat_map(|name| &schema[*name]).collect();
    let fields = object.as_object().unwrap();
    let names: Vec<_> = fields.keys().collect();
    assert_eq!(names, documented.keys().copied().collect::<Vec<_>>(), "{sections:?}: {object}");
    for (name, kind) in documented {
        let value = &fields[name];
        let is_right = match kind.trim_end_matches('?') {
            _ if value.is_null() => kind.ends_with('?'),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => value.is_array(),
            other => panic!("{other} is no type"),
        };
        assert!(is_right, "{name} is not {kind}: {object}");
    }
}

fn events(output: &Output) -> Vec<Value> {
    let schema = schema();
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let events: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for event in &events {
        let kind = event["event"].as_str().unwrap();
        check(event, &["every event", kind], &schema);
        assert_eq!(event["schema"], 1);
        if !matches!(kind, "summary" | "interim") {
            continue;
        }
        for name in ["rtt_us", "late_by_us", "resolve_us", "connect_us", "tls_us", "upgrade_us"] {
            check(&event[name], &["times"], &schema);
        }
        let endings = event["endings"].as_array().unwrap();
        endings.iter().for_each(|ending| check(ending, &["ending"], &schema));
        is_consistent(event);
    }
    events
}

/// Checks that what a summary says can all be true.
fn is_consistent(summary: &Value) {
    let number = |name: &str| summary[name].as_u64().unwrap();
    let answered = number("received") + number("lost") + number("unanswered");
    assert!(answered <= number("sent"), "{summary}");
    assert!(number("sent") <= answered + number("corrupted"), "{summary}");
    assert_eq!(number("bytes_received"), number("received") * number("message_size"));
    let rtt = &summary["rtt_us"];
    let buckets = summary["histogram"].as_array().unwrap();
    let counted: u64 = buckets.iter().map(|bucket| bucket["count"].as_u64().unwrap()).sum();
    assert_eq!(rtt["count"], counted, "{summary}");
    assert!(counted <= number("received"), "{summary}");
    let order = ["min", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let figures: Vec<_> = order.iter().filter_map(|name| rtt[name].as_f64()).collect();
    assert!(figures.is_sorted(), "{summary}");
    if let (Some(first), Some(last)) = (buckets.first(), buckets.last()) {
        assert!(first["from_us"].as_f64() <= rtt["min"].as_f64(), "{summary}");
        assert!(rtt["max"].as_f64() < last["to_us"].as_f64(), "{summary}");
    }
    let elapsed = summary["elapsed_s"].as_f64().unwrap();
    if elapsed > 0.0 {
        let rate = number("received") as f64 / elapsed;
        assert!((rate - summary["rate"].as_f64().unwrap()).abs() <= rate * 1e-9, "{summary}");
    }
}

async fn run(args: &[&str]) -> Output {
    let mut command = command();
    command.args(["probe", "--json"]).args(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

fn tcp(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_documented() {
    let server = Running::start(&["--tcp", "0", "--udp", "0"]);
    let url = tcp(server.address("tcp"));
    let ping = run(&[&url, "-c", "2", "-i", "1ms"]).await;
    assert_eq!(kinds(&events(&ping)), ["connected", "reply", "reply", "summary"]);
    let each = run(&[&url, "-c", "2", "-i", "1ms", "--connect-each"]).await;
    let each = events(&each);
    assert_eq!(kinds(&each), ["connected", "reply", "connected", "reply", "summary"]);
    assert_eq!((&each[4]["connections"], &each[4]["connect_us"]["count"]), (&2.into(), &2.into()));
    let load = events(&run(&[&url, "--connections", "3", "-c", "1000", "--threads", "2"]).await);
    let last = load.last().unwrap();
    assert_eq!((&last["sent"], &last["received"]), (&1000.into(), &1000.into()));
    assert_eq!((&last["connections"], &last["connect_us"]["count"]), (&3.into(), &3.into()));
    assert_eq!(
        (&kinds(&load)[..2], &last["event"]),
        (&["connected", "progress"][..], &"summary".into())
    );
    let scheduled = ["--rate", "1000", "--duration", "300ms", "--warm-up", "300ms"];
    let scheduled = events(&run(&[&[url.as_str()], &scheduled[..]].concat()).await);
    let last = scheduled.last().unwrap();
    assert!(last["late_by_us"]["count"].as_u64() > Some(0), "{last}");
    assert!(scheduled.iter().any(|event| event["warm_up"] == true), "{scheduled:?}");
    let reconnecting =
        run(&[&tcp(closes_first().await), "-c", "2", "-i", "1ms", "--reconnect"]).await;
    let reconnecting = events(&reconnecting);
    let kinds_of = kinds(&reconnecting);
    assert!(kinds_of.contains(&"failed") && kinds_of.contains(&"reconnected"), "{kinds_of:?}");
    let error = events(&run(&["tcp://127.0.0.1:1", "-c", "1"]).await);
    assert_eq!(kinds(&error), ["error"]);
    let asked = events(&run(&[&tcp(has_facts().await), "--facts"]).await);
    assert_eq!(kinds(&asked), ["facts"], "one object");
    assert_eq!(
        (&asked[0]["facts"]["protocol"], &asked[0]["echoed"]),
        (&"tcp".into(), &true.into())
    );
    let differences = asked[0]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 2, "{differences:?}");
    differences.iter().for_each(|difference| check(difference, &["difference"], &schema()));
    let none = events(&run(&[&format!("udp://{}", server.address("udp")), "--facts"]).await);
    assert_eq!((kinds(&none), &none[0]["facts"]), (vec!["facts"], &Value::Null));
    assert!(none[0]["why"].as_str().unwrap().contains(" echoed the question"), "{none:?}");
    if cfg!(target_os = "linux") {
        let url = format!("udp://{}", server.address("udp"));
        let found = events(&run(&[&url, "--find-mtu"]).await);
        assert_eq!(found.last().unwrap()["event"], "mtu");
    }
}

/// Sends facts with other addresses than the real ones, and echoes.
async fn has_facts() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let facts = "{\"echo_facts\":1,\"protocol\":\"tcp\",\"time\":\"2026-11-28T01:25:03.123456Z\",\
                 \"peer\":\"192.0.2.1:1\",\"local\":\"192.0.2.2:2\"}\n";
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(facts.as_bytes()).await.unwrap();
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    address
}

/// Closes its first connection at once, and echoes on the others.
async fn closes_first() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        drop(listener.accept().await.unwrap());
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_add_up_whatever_the_service_does() {
    let drops: Wrong = |n, message, _| match n % 3 {
        0 => vec![],
        1 => vec![message.to_vec(), message.to_vec()],
        _ => vec![message.iter().map(|byte| byte ^ u8::from(*byte == message[20])).collect()],
    };
    let udp = format!("udp://{}", wrong_udp(drops).await);
    let tcp = tcp(wrong_tcp(64, drops, 50).await);
    for url in [&udp, &tcp] {
        let ping = ["-c", "9", "-i", "1ms", "--timeout", "300ms"];
        let ping = events(&run(&[&[url.as_str()], &ping[..]].concat()).await);
        let summary = ping.last().unwrap();
        let of = |verdict: &str| ping.iter().filter(|event| event["verdict"] == verdict).count();
        assert_eq!(summary["received"], of("echoed") + of("late"), "{summary}");
        assert_eq!(summary["duplicated"], of("duplicated"), "{summary}");
        assert_eq!(summary["corrupted"], of("corrupted"), "{summary}");
        let overdue = ping.iter().filter(|event| event["event"] == "overdue").count();
        assert_eq!(summary["lost"], overdue - of("late"), "{summary}");
        let load = ["--connections", "2", "-c", "30", "--timeout", "300ms"];
        let load = run(&[&[url.as_str()], &load[..]].concat()).await;
        assert_eq!(events(&load).last().unwrap()["event"], "summary");
    }
}
