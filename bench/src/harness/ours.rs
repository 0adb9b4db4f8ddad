//! Our server's binary: built here as it is shipped.
//!
//! A package has no `CARGO_BIN_EXE` for the binary of another one. `cargo build` at the top is what a
//! user runs, so that is what is run here, and what is measured has no feature that tests enable
//! (tokio's clock that can be paused costs some 350 instructions for each echo).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::sample::Trouble;

const NAME: &str = "echo-server";

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// The binary that [`prepare`] found.
pub fn binary() -> &'static Path {
    BINARY.get().expect("the harness prepares the binary before it starts a server")
}

/// Takes the binary that is `given`, or builds it. `cargo test` gives its own: its echoes are checked,
/// not its times.
pub fn prepare(given: Option<&Path>) -> Result<(), Trouble> {
    let binary = given.map_or_else(build, |given| Ok(given.to_owned()))?;
    BINARY.get_or_init(|| binary);
    Ok(())
}

fn build() -> Result<PathBuf, Trouble> {
    // cargo sets CARGO for what it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--package", NAME, "--bin", NAME]);
    command.args(["--message-format", "json-render-diagnostics"]);
    command.current_dir(top).stdin(Stdio::null()).stderr(Stdio::inherit());
    let failed =
        |what: &dyn std::fmt::Display| format!("cargo build --release --bin {NAME}: {what}");
    let output = command.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == NAME;
        message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    executables.next_back().ok_or_else(|| failed(&"cargo names no executable"))
}
