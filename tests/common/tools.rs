//! Real clients. A test whose client is not installed says so and is skipped. With
//! `REQUIRE_TEST_TOOLS=1` it fails.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Whether `command` runs and prints `expected`.
pub fn runs(command: &[&str], expected: &str) -> bool {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let says = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(expected);
    output.is_ok_and(|output| says(&output.stdout) || says(&output.stderr))
}

/// Whether the test can go on with the tool whose `probe` command prints `expected`.
pub fn have(probe: &[&str], expected: &str) -> bool {
    if runs(probe, expected) {
        return true;
    }
    let required = std::env::var_os("REQUIRE_TEST_TOOLS").is_some_and(|value| value == "1");
    assert!(!required, "{probe:?} does not work, and REQUIRE_TEST_TOOLS=1");
    eprintln!("skipped: {probe:?} does not work here");
    false
}

/// OpenBSD's netcat.
pub fn have_nc() -> bool {
    have(&["nc", "-h"], "-N")
}

pub fn have_openssl() -> bool {
    have(&["openssl", "version"], "OpenSSL")
}

/// Node with its own WebSocket client.
pub fn have_node() -> bool {
    have(&["node", "--experimental-websocket", "-p", "typeof WebSocket"], "function")
}

/// Python with the `websockets` package.
pub fn have_python_websockets() -> bool {
    have(
        &["python3", "-c", "import websockets.sync.client; print('has websockets')"],
        "has websockets",
    )
}

pub fn have_chromium() -> bool {
    have(&["chromium", "--version"], "Chromium")
}

/// The source of axe-core, which finds what is not accessible on a page. Two Python packages have
/// it.
pub fn axe() -> Option<String> {
    const FIND: &str = "
import importlib.util, pathlib
for name in 'axe_playwright_python', 'axe_selenium_python':
    if spec := importlib.util.find_spec(name):
        for path in pathlib.Path(spec.origin).parent.rglob('axe.min.js'):
            print(path)
";
    if !have(&["python3", "-c", FIND], "axe.min.js") {
        return None;
    }
    let output = run(Command::new("python3").args(["-c", FIND]), b"");
    let paths = String::from_utf8(output.stdout).unwrap();
    Some(std::fs::read_to_string(paths.lines().next().unwrap()).expect("a readable file"))
}

/// Runs a command with `input` as its whole standard input, and returns its output.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || {
        // A client may stop reading early. Only its output counts.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().expect("the tool ends");
    feeding.join().unwrap();
    output
}

/// Like [`run`], but on a blocking thread, since the server needs the runtime's.
pub async fn run_async(mut command: Command, input: Vec<u8>) -> Output {
    tokio::task::spawn_blocking(move || run(&mut command, &input)).await.unwrap()
}
