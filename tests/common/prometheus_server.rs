//! A real Prometheus, which scrapes every second.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::prometheus::{file, text};
use super::tools;

/// A running Prometheus. Dropping it kills the process.
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

pub fn have_prometheus() -> bool {
    tools::have(&["prometheus", "--version"], "prometheus")
}

impl Prometheus {
    /// Starts one with deploy/prometheus/prometheus.yml and its rules, which scrapes `targets`.
    pub fn start(targets: &[SocketAddr]) -> Prometheus {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let targets: Vec<_> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let mut config = text("deploy/prometheus/prometheus.yml")
            .replace("15s", "1s\n  evaluation_interval: 1s")
            .replace("\"127.0.0.1:8082\"", &targets.join(", "));
        for rules in ["alerts.yml", "mesh.yml"] {
            let path = file(&format!("deploy/prometheus/{rules}"));
            config = config.replace(&format!("- {rules}"), &format!("- {}", path.display()));
        }
        fs::write(path("prometheus.yml"), config).unwrap();
        // It does not tell which port it got, so it is told one that was free just now.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        Prometheus { process, address, _directory: directory }
    }

    /// What its API answers; `None` while it does not listen yet.
    pub fn api(&mut self, path: &str) -> Option<Value> {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "Prometheus has ended: {ended:?}");
        let mut stream = TcpStream::connect(self.address).ok()?;
        // HTTP/1.0 has no chunks.
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let answer: Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The series that a query in PromQL finds now, and their values.
    pub fn query(&mut self, query: &str) -> Vec<(Value, String)> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let Some(data) = self.api(&format!("query?query={encoded}")) else { return Vec::new() };
        let series = data["result"].as_array().unwrap().iter();
        series
            .map(|each| (each["metric"].clone(), each["value"][1].as_str().unwrap().to_owned()))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
