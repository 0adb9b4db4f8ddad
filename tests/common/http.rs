//! The admin endpoint's HTTP, from outside, and the values of its metrics.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::binary::Running;

/// A response, read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Response {
    /// Reads a response whose end is the end of the stream.
    pub fn read(mut stream: impl Read) -> Response {
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("a response");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Response { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }
}

/// The request head for `path`, after which the server closes.
pub fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n")
}

pub fn send(address: SocketAddr, method: &str, path: &str, fields: &str) -> Response {
    let mut stream = TcpStream::connect(address).expect("the admin endpoint listens");
    stream.write_all(request(method, path, fields).as_bytes()).unwrap();
    Response::read(stream)
}

pub fn get(address: SocketAddr, path: &str) -> Response {
    send(address, "GET", path, "")
}

/// The address of a server's admin endpoint.
pub fn admin(server: &Running) -> SocketAddr {
    server.ready["admin"][0].as_str().unwrap().parse().unwrap()
}

/// A scrape.
pub struct Metrics(pub String);

impl Metrics {
    pub fn of(address: SocketAddr) -> Metrics {
        let response = get(address, "/metrics");
        assert_eq!(response.status, 200);
        Metrics(response.body)
    }

    /// The value of a series, written as in the text format; `None` if there is no such series.
    pub fn find(&self, series: &str) -> Option<f64> {
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        self.0.lines().find_map(value)
    }

    pub fn value(&self, series: &str) -> f64 {
        self.find(series).unwrap_or_else(|| panic!("no {series} in {}", self.0))
    }

    /// The labels and the value of each series of a metric.
    pub fn samples<'a>(&'a self, name: &'a str) -> Vec<(BTreeMap<&'a str, &'a str>, f64)> {
        let series = |line: &'a str| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let labels = labels.map(|(name, value)| (name, value.trim_matches('"'))).collect();
            Some((labels, value.parse().ok()?))
        };
        self.0.lines().filter_map(series).collect()
    }

    /// The names of all metric families.
    pub fn families(&self) -> Vec<&str> {
        let types = self.0.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.filter_map(|family| family.split(' ').next()).collect()
    }
}

/// Scrapes until `series` has `value`: a session ends a little after its client.
pub fn wait_for(address: SocketAddr, series: &str, value: f64) -> Metrics {
    loop {
        let metrics = Metrics::of(address);
        if metrics.find(series) == Some(value) {
            return metrics;
        }
        std::thread::yield_now();
    }
}
