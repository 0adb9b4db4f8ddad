//! `--ready-file`: tells a script that the server listens, and on which addresses.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use echo_server::LocalAddr;
use serde_json::json;

/// A file that appears, complete, when the server is ready.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes the file of an earlier server, so that no script reads stale addresses.
    ///
    /// # Errors
    /// One line: an old file cannot be removed.
    pub fn prepare(path: PathBuf) -> Result<Self, String> {
        if is_replaceable(&path)
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(message(&path, &error));
        }
        Ok(ReadyFile { path })
    }

    /// Writes the addresses as one line of JSON. A regular file is written under another name and
    /// renamed, so that nobody reads half of it; a pipe or a device is written in place.
    ///
    /// # Errors
    /// One line: it could not be written.
    pub fn announce(&self, local_addrs: &[LocalAddr]) -> Result<(), String> {
        let listeners: Vec<_> = local_addrs
            .iter()
            .map(|local| {
                json!({ "protocol": local.protocol.name(), "address": local.address.to_string() })
            })
            .collect();
        let line = format!("{}\n", json!({ "pid": std::process::id(), "listeners": listeners }));
        self.write(&line).map_err(|error| message(&self.path, &error))
    }

    fn write(&self, line: &str) -> io::Result<()> {
        if !is_replaceable(&self.path) {
            return fs::write(&self.path, line);
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let written = fs::write(&temporary, line).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Whether `path` is a regular file or does not exist. Renaming over a device such as /dev/null
/// would replace it.
fn is_replaceable(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |metadata| metadata.is_file())
}

fn message(path: &Path, error: &io::Error) -> String {
    format!("--ready-file {}: {error}", path.display())
}
