//! OpenSSL over epoll, in C: `openssl.c` is compiled when it is asked for, so that nobody needs
//! OpenSSL's headers who does not compare with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::certificates::certs;

/// The command of the server. [`compile`] has to be called first.
pub fn command() -> Command {
    let mut command = Command::new(executable());
    command.arg(certs("server.pem")).arg(certs("server.key"));
    command
}

/// Compiles the server, or says why not, and what would help.
pub fn compile() -> Result<(), String> {
    let cure = "on Debian, apt-get install gcc pkg-config libssl-dev";
    let flags = output(Command::new("pkg-config").args(["--cflags", "--libs", "openssl"]))
        .map_err(|error| format!("pkg-config openssl: {error}; {cure}"))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(executable());
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controls/openssl.c"));
    command.args(flags.split_whitespace()).stderr(Stdio::inherit());
    output(&mut command).map(drop).map_err(|error| format!("cc: {error}; {cure}"))
}

fn executable() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("openssl-epoll")
}

/// What a command prints, if it succeeds.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(printed).ok_or_else(|| output.status.to_string())
}
