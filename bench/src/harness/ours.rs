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

/// Builds the binary. `is_test` is for `cargo test`, which has built one that will do: its echoes are
/// checked, not its times.
pub fn prepare(is_test: bool) -> Result<(), Trouble> {
    let binary = match is_test.then(beside_us).flatten() {
        Some(binary) => binary,
        None => build(!cfg!(debug_assertions))?,
    };
    BINARY.get_or_init(|| binary);
    Ok(())
}

/// The binary in the directory above the one that this executable is in.
fn beside_us() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let binary = this.parent()?.parent()?.join(NAME);
    binary.is_file().then_some(binary)
}

fn build(is_release: bool) -> Result<PathBuf, Trouble> {
    // cargo sets CARGO for what it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(cargo);
    command.args(["build", "--bin", NAME, "--message-format", "json-render-diagnostics"]);
    command.args(is_release.then_some("--release"));
    command.current_dir(top).stdin(Stdio::null()).stderr(Stdio::inherit());
    let failed = |what: &dyn std::fmt::Display| format!("cargo build --bin {NAME}: {what}");
    let output = command.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_ours = message["target"]["name"] == NAME;
        message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    executable.last().ok_or_else(|| failed(&"cargo names no executable"))
}
