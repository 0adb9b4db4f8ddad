//! `--ready-file`: how a script learns that everything listens, and where.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use echo_server::LocalAddr;
use serde_json::json;

/// A file that appears, whole, when the server is ready.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
}

impl ReadyFile {
    /// Removes what an earlier server left at `path`, so that nobody takes it for news.
    ///
    /// # Errors
    /// One line: something is there that cannot be removed.
    pub fn prepare(path: PathBuf) -> Result<Self, String> {
        if is_replaceable(&path)
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(refusal(&path, &error));
        }
        Ok(ReadyFile { path })
    }

    /// Writes the addresses as one line of JSON. A regular file appears in one piece, under its
    /// name only when it is complete; a pipe or a device is written to.
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
        self.write(&line).map_err(|error| refusal(&self.path, &error))
    }

    fn write(&self, line: &str) -> io::Result<()> {
        if !is_replaceable(&self.path) {
            return fs::write(&self.path, line);
        }
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(format!(".{}", std::process::id()));
        let written =
            fs::write(&unfinished, line).and_then(|()| fs::rename(&unfinished, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// Whether `path` is a regular file, or nothing yet. To rename over /dev/stdout would replace it.
fn is_replaceable(path: &Path) -> bool {
    fs::symlink_metadata(path).map_or(true, |metadata| metadata.is_file())
}

fn refusal(path: &Path, error: &io::Error) -> String {
    format!("--ready-file {}: {error}", path.display())
}
