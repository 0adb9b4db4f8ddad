//! The key log: each connection's secrets, in the format of SSLKEYLOGFILE, so that tools can decrypt
//! a recording. rustls' own writer creates a file that others may read, and ignores errors.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio_rustls::rustls::KeyLog;
use tracing::warn;

use crate::error::{Setting, StartError};

/// Appends secrets to a file.
#[derive(Debug)]
pub(super) struct KeyLogWriter {
    path: PathBuf,
    file: Mutex<File>,
    /// The file's permissions let other users read it.
    is_public: bool,
    /// A write has failed, and the log says so. Each handshake writes several lines, so saying it
    /// each time would flood the log.
    has_failed: AtomicBool,
}

impl KeyLogWriter {
    /// Opens the file that the environment variable SSLKEYLOGFILE names, or creates it for its
    /// owner alone.
    pub(super) fn from_environment() -> Result<Self, StartError> {
        let refuse = |why: &str| StartError::setting(Setting::KeyLog, why);
        let path = std::env::var_os("SSLKEYLOGFILE").filter(|path| !path.is_empty());
        let path = path
            .map(PathBuf::from)
            .ok_or_else(|| refuse("the environment variable SSLKEYLOGFILE names no file"))?;
        let file = path.display();
        let opened = open(&path).and_then(|opened| Ok((others_may_read(&opened)?, opened)));
        let (is_public, opened) =
            opened.map_err(|error| refuse(&format!("SSLKEYLOGFILE {file}: {error}")))?;
        let has_failed = AtomicBool::new(false);
        Ok(KeyLogWriter { file: Mutex::new(opened), is_public, has_failed, path })
    }

    /// Logs what the key log means for the secrecy of connections.
    pub(super) fn announce(&self) {
        let file = self.path.display();
        warn!(%file, "Whoever can read the key log file can decrypt every connection");
        if self.is_public {
            warn!(%file, "The key log file existed, and its permissions let other users read it");
        }
    }
}

impl KeyLog for KeyLogWriter {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line = format!("{label} ");
        push_hex(&mut line, client_random);
        line.push(' ');
        push_hex(&mut line, secret);
        line.push('\n');
        // One write for the whole line, so that other processes that append to the file cannot put
        // a line of theirs into ours.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(line.as_bytes());
        drop(file);
        if let Err(error) = written
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            let file = self.path.display();
            warn!(%file, %error, "The key log file lacks secrets: it could not be written");
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    // An existing file keeps its mode.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Whether the permissions of the file let others than its owner read it.
#[cfg(unix)]
fn others_may_read(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let metadata = file.metadata()?;
    Ok(metadata.is_file() && metadata.mode() & 0o044 != 0)
}

/// Other systems have access control lists, which the standard library cannot read.
#[cfg(not(unix))]
fn others_may_read(_file: &File) -> io::Result<bool> {
    Ok(false)
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(line, "{byte:02x}").expect("a string can be written");
    }
}
