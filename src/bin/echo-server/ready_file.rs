//! `--ready-file`: tells a script that the server listens, and on which addresses.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use echo_server::{Address, LocalAddr};
use serde_json::json;

/// How many names are tried for the temporary file. All of them are taken only if somebody wants to
/// keep us from creating it.
const TEMPORARY_NAMES: u32 = 100;

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
    pub fn announce(&self, local_addrs: &[LocalAddr], admin: &[Address]) -> Result<(), String> {
        let listeners: Vec<_> = local_addrs
            .iter()
            .map(|local| {
                json!({ "protocol": local.protocol.name(), "address": local.address.to_string() })
            })
            .collect();
        let mut ready = json!({ "pid": std::process::id(), "listeners": listeners });
        if !admin.is_empty() {
            ready["admin"] = admin.iter().map(Address::to_string).collect();
        }
        let line = format!("{ready}\n");
        self.write(&line).map_err(|error| message(&self.path, &error))
    }

    fn write(&self, line: &str) -> io::Result<()> {
        if !is_replaceable(&self.path) {
            return write_in_place(&self.path, line);
        }
        let (mut file, temporary) = create_beside(&self.path)?;
        let written =
            file.write_all(line.as_bytes()).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Whether a new file may take the place of whatever has the name `path`: a regular file, nothing,
/// or a link to either of them, which is replaced and not followed. Renaming over a device such as
/// /dev/null, or over the link /dev/stdout, would replace it for the whole system.
fn is_replaceable(path: &Path) -> bool {
    !is_descriptor(path) && fs::metadata(path).map_or(true, |metadata| metadata.is_file())
}

/// Whether `path` is the name of one of our own descriptors, such as /dev/stdout. It is a link that
/// only the system can make, and that can lead to a regular file.
fn is_descriptor(path: &Path) -> bool {
    let directory = path.parent().and_then(|directory| directory.canonicalize().ok());
    directory.is_some_and(|directory| {
        let is_standard = ["stdout", "stderr"].iter().any(|name| path.ends_with(name));
        // /dev/fd is a link to /proc/self/fd.
        directory.starts_with("/proc") || (directory == Path::new("/dev") && is_standard)
    })
}

/// Creates a new file in the directory of `path`. If somebody has put a file or a link at the first
/// name, which can be guessed, another name is used.
fn create_beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..TEMPORARY_NAMES {
        let mut temporary = path.to_owned().into_os_string();
        temporary.push(format!(".{}.{number}", std::process::id()));
        // `create_new` neither opens an existing file nor follows a link.
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => return Ok((file, temporary.into())),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

/// Writes to the pipe or device at `path`, and creates nothing.
fn write_in_place(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    if file.metadata()?.is_file() {
        // The pipe may have been replaced by a link to somebody's file since we looked.
        if !is_descriptor(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        file.set_len(0)?;
    }
    file.write_all(line.as_bytes())
}

fn message(path: &Path, error: &io::Error) -> String {
    format!("--ready-file {}: {error}", path.display())
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path) {
        ReadyFile::prepare(path.to_owned()).unwrap().write("ready").unwrap();
    }

    #[test]
    fn a_link_at_the_temporary_name_is_not_written_through() {
        let there = tempfile::tempdir().unwrap();
        let (path, victim) = (there.path().join("ready"), there.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        let taken = |number| there.path().join(format!("ready.{}.{number}", std::process::id()));
        symlink(&victim, taken(0)).unwrap();
        symlink(there.path().join("nowhere"), taken(1)).unwrap();
        write(&path);
        assert_eq!(fs::read_to_string(&path).unwrap(), "ready");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!there.path().join("nowhere").exists());
        assert_eq!(fs::read_dir(&there).unwrap().count(), 4, "no temporary file is left");
    }

    #[test]
    fn a_link_at_the_path_itself_is_replaced_and_not_written_through() {
        let there = tempfile::tempdir().unwrap();
        let (path, victim) = (there.path().join("ready"), there.path().join("victim"));
        fs::write(&victim, "precious").unwrap();
        for target in [victim.clone(), there.path().join("nowhere")] {
            let file = ReadyFile::prepare(path.clone()).unwrap();
            symlink(&target, &path).unwrap();
            file.write("ready").unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
            assert_eq!(fs::read_to_string(&path).unwrap(), "ready");
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!there.path().join("nowhere").exists());
    }

    #[test]
    fn if_all_temporary_names_are_taken_nothing_is_written() {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("ready");
        for number in 0..TEMPORARY_NAMES {
            let taken = there.path().join(format!("ready.{}.{number}", std::process::id()));
            fs::write(taken, "theirs").unwrap();
        }
        let refused = ReadyFile { path: path.clone() }.write("ready").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        for entry in fs::read_dir(&there).unwrap() {
            assert_eq!(fs::read_to_string(entry.unwrap().path()).unwrap(), "theirs");
        }
    }
}
