//! Headless Chromium, controlled over its DevTools protocol.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::websocket_at;

/// The longest that a browser on a slow machine takes to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One browser with one page. It ends with the test.
pub struct Browser {
    devtools: WebSocketStream<TcpStream>,
    session: String,
    last_id: u64,
    /// The DevTools events that came between the answers.
    events: Vec<Value>,
    /// Dropped last, after the connections to it.
    _process: Process,
}

impl Browser {
    /// Starts it with `arguments` besides its own, and opens an empty page. It accepts every
    /// certificate.
    pub async fn start(arguments: &[&str]) -> Browser {
        Browser::start_distrusting(&[&["--ignore-certificate-errors"], arguments].concat()).await
    }

    /// Like [`Browser::start`], but accepts no certificate that the system does not trust.
    pub async fn start_distrusting(arguments: &[&str]) -> Browser {
        Browser::start_with(arguments, None).await
    }

    /// Like [`Browser::start_distrusting`], but trusts the CA in this PEM file, too. It needs
    /// `certutil`.
    pub async fn start_trusting(ca: &Path) -> Browser {
        Browser::start_with(&[], Some(ca.to_owned())).await
    }

    async fn start_with(arguments: &[&str], ca: Option<PathBuf>) -> Browser {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let start = move || Process::start(&arguments, ca.as_deref());
        let (process, address) = tokio::task::spawn_blocking(start).await.unwrap();
        let authority = address.strip_prefix("ws://").unwrap().split('/').next().unwrap();
        let tcp = TcpStream::connect(authority).await.expect("the browser listens");
        let devtools = websocket_at(&address, tcp).await;
        let (session, last_id, events) = (String::new(), 0, Vec::new());
        let mut browser = Browser { devtools, session, last_id, events, _process: process };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser.call("Page.setLifecycleEventsEnabled", json!({ "enabled": true })).await;
        browser
    }

    /// Loads `url`, and waits until it has loaded.
    pub async fn navigate(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
        // The empty page's own load event may still come.
        loop {
            let event = self.event("Page.lifecycleEvent").await;
            if event["loaderId"] == answer["loaderId"] && event["name"] == "load" {
                return;
            }
        }
    }

    /// Loads the page again, and waits until it has loaded.
    pub async fn reload(&mut self) {
        self.call("Page.reload", json!({})).await;
        while self.event("Page.lifecycleEvent").await["name"] != "load" {}
    }

    /// The value of `expression`, or what it resolves to if it is a promise. Panics if it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
            // Some APIs need a user activation.
            "userGesture": true,
        });
        let answer = self.call("Runtime.evaluate", parameters).await;
        let exception = answer.get("exceptionDetails");
        assert!(exception.is_none(), "{expression}: {}", exception.unwrap());
        answer["result"]["value"].clone()
    }

    /// Presses the left mouse button at the centre of the element.
    pub async fn press(&mut self, selector: &str) {
        let selector = json!(selector);
        let centre = format!(
            "{{ const element = document.querySelector({selector}); element.scrollIntoView({{ block: 'center' }}); \
             const {{ x, y, width, height }} = element.getBoundingClientRect(); [x + width / 2, y + height / 2] }}"
        );
        let centre = self.evaluate(&centre).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": centre[0], "y": centre[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", event).await;
        }
    }

    /// The first event named `method` since the last call, waiting for it if necessary.
    pub async fn event(&mut self, method: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
                return self.events.remove(at)["params"].take();
            }
            let event = self.receive().await;
            self.events.push(event);
        }
    }

    /// Pretends that the window has this size in CSS pixels, is a phone's if it is narrow, and that
    /// the user prefers `scheme`, `light` or `dark`.
    pub async fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let metrics = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// What the window shows, as PNG.
    pub async fn screenshot(&mut self) -> Vec<u8> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let data = answer["data"].as_str().unwrap();
        data_encoding::BASE64.decode(data.as_bytes()).expect("base64")
    }

    /// The URLs of all HTTP requests and WebSockets since the start.
    pub fn requests(&self) -> Vec<&str> {
        let url = |event: &'_ Value| match event["method"].as_str() {
            Some("Network.requestWillBeSent") => Some("/params/request/url"),
            Some("Network.webSocketCreated") => Some("/params/url"),
            _ => None,
        };
        self.events.iter().filter_map(|event| event.pointer(url(event)?)?.as_str()).collect()
    }

    /// Uncaught exceptions, and errors that the browser reports itself, such as violations of the
    /// page's Content Security Policy.
    pub fn complaints(&self) -> Vec<&Value> {
        let complaint = |event: &&Value| {
            event["method"] == "Runtime.exceptionThrown"
                || event["method"] == "Log.entryAdded"
                    && event["params"]["entry"]["level"] == "error"
        };
        self.events.iter().filter(complaint).collect()
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut request = json!({ "id": self.last_id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            request["sessionId"] = json!(self.session);
        }
        self.devtools.send(Message::text(request.to_string())).await.expect("the browser listens");
        loop {
            let mut message = self.receive().await;
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].take();
            }
            self.events.push(message);
        }
    }

    async fn receive(&mut self) -> Value {
        let message = timeout(PATIENCE, self.devtools.next()).await.expect("the browser answers");
        let message = message.expect("the browser runs").expect("the browser runs");
        serde_json::from_slice(&message.into_data()).expect("JSON")
    }
}

/// The browser's process and its profile directory. Dropping it kills the one and removes the
/// other.
struct Process {
    child: Child,
    _profile: TempDir,
}

impl Process {
    /// Starts the browser, and waits until it prints the address of its DevTools.
    fn start(arguments: &[String], ca: Option<&Path>) -> (Process, String) {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new("chromium");
        if let Some(ca) = ca {
            // The browser trusts what the database in its user's home does.
            trust(ca, &profile.path().join(".pki/nssdb"));
            command.env("HOME", profile.path());
        }
        let mut child = command
            .args([
                "--headless",
                // Chromium's sandbox does not work as root, as tests in containers run.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--disable-breakpad",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(arguments)
            .arg("about:blank")
            // The temporary files of a killed browser are removed with the profile.
            .env("TMPDIR", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let process = Process { child, _profile: profile };
        let mut said = String::new();
        let address = loop {
            let start = said.len();
            let length = stderr.read_line(&mut said).unwrap();
            assert_ne!(length, 0, "the browser ended: {said}");
            if let Some(address) = said[start..].strip_prefix("DevTools listening on ") {
                break address.trim().to_owned();
            }
        };
        // A full pipe would block the browser.
        std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        (process, address)
    }
}

/// Makes a database of certificates that trusts a CA.
fn trust(ca: &Path, database: &Path) {
    std::fs::create_dir_all(database).unwrap();
    let database = format!("sql:{}", database.display());
    let certutil = |arguments: &[&str]| {
        let output = Command::new("certutil").args(["-d", &database]).args(arguments).output();
        let output = output.expect("certutil starts");
        assert!(output.status.success(), "certutil {arguments:?}: {output:?}");
    };
    certutil(&["-N", "--empty-password"]);
    certutil(&["-A", "-n", "the test's CA", "-t", "C,,", "-i", ca.to_str().unwrap()]);
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
