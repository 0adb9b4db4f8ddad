//! Reads the files of certificates and keys: regular files and pipes, each once, and none without
//! end. Devices are refused, since they may have no end or do something when they are opened.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
#[cfg(unix)]
use std::time::Instant;

use super::forms;
use crate::config::Source;
use crate::error::{Credential, CredentialError};

const MIB: u64 = 1024 * 1024;

/// How long a pipe may bring nothing. A command whose output is the file may need a moment.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for a pipe that has taken the place of a file since the start. Other files may be ready
/// to be reloaded meanwhile.
const LATER_PIPE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads each source once. A pipe cannot be read twice, and a certificate and its key may be in the
/// same one. A new reader sees what the files hold by then.
#[derive(Debug)]
pub(crate) struct Reader {
    pipe_timeout: Duration,
    /// The content of each file, or why it could not be read.
    read: RefCell<HashMap<PathBuf, Result<Content, String>>>,
}

/// What a file holds.
#[derive(Debug, Clone)]
struct Content {
    bytes: Arc<[u8]>,
    is_pipe: bool,
}

/// The paths of pipes and what came through them.
pub(super) type Pipes = HashMap<PathBuf, Arc<[u8]>>;

impl Default for Reader {
    fn default() -> Self {
        Reader { pipe_timeout: PIPE_TIMEOUT, read: RefCell::default() }
    }
}

impl Reader {
    /// A reader for a reload, which does not read `pipes` again.
    pub(super) fn keeping(pipes: &Pipes) -> Reader {
        let kept = pipes.iter().map(|(path, bytes)| {
            (path.clone(), Ok(Content { bytes: Arc::clone(bytes), is_pipe: true }))
        });
        Reader { pipe_timeout: LATER_PIPE_TIMEOUT, read: RefCell::new(kept.collect()) }
    }

    /// The pipes among the files that were read.
    pub(super) fn into_pipes(self) -> Pipes {
        let read = self.read.into_inner().into_iter();
        read.filter_map(|(path, content)| {
            content.ok().filter(|content| content.is_pipe).map(|content| (path, content.bytes))
        })
        .collect()
    }

    /// The content of `source`. It may block for as long as a disk does, and as long as
    /// a pipe may bring nothing.
    pub(super) fn bytes(
        &self,
        credential: Credential,
        source: &Source,
    ) -> Result<Arc<[u8]>, CredentialError> {
        let path = match source {
            Source::Memory(bytes) => return Ok(Arc::clone(bytes)),
            Source::File(path) => path,
        };
        if let Some(known) = self.read.borrow().get(path) {
            return match known {
                Ok(content) => Ok(Arc::clone(&content.bytes)),
                Err(problem) => Err(CredentialError::new(credential, source, problem.clone())),
            };
        }
        let content = self.read(path, limit(credential)).map_err(|error| {
            let refused = CredentialError::caused_by(credential, source, error);
            match source.is_content() {
                true => CredentialError { problem: content_as_path(credential), ..refused },
                false => refused,
            }
        });
        let kept = match &content {
            Ok(content) => Ok(content.clone()),
            Err(error) => Err(error.problem.clone()),
        };
        self.read.borrow_mut().insert(path.clone(), kept);
        Ok(content?.bytes)
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Content> {
        kind(&std::fs::metadata(path)?)?;
        let file = open(path)?;
        // It may have been replaced meanwhile.
        let kind = kind(&file.metadata()?)?;
        let mut bytes = Vec::new();
        match kind {
            Kind::File => {
                (&file).take(limit + 1).read_to_end(&mut bytes)?;
            }
            Kind::Pipe => read_pipe(&file, limit, self.pipe_timeout, &mut bytes)?,
        }
        if bytes.len() as u64 > limit {
            let noun = if limit > 4 * MIB { "a revocation list" } else { "a certificate or a key" };
            let problem = format!("it is too large to be {noun}: more than {} MiB", limit / MIB);
            return Err(io::Error::other(problem));
        }
        Ok(Content { bytes: bytes.into(), is_pipe: kind == Kind::Pipe })
    }
}

/// The most bytes that a file may have. Lists of large CAs are long.
fn limit(credential: Credential) -> u64 {
    match credential {
        Credential::Crl => 64 * MIB,
        _ => 4 * MIB,
    }
}

/// For a path that is the content of a file. It quotes nothing.
fn content_as_path(credential: Credential) -> String {
    let noun = forms::noun(credential);
    format!("it looks like the {noun} itself, in place of the path of its file")
}

/// What can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A regular file, or a directory: reading it fails with the system's words.
    File,
    /// A pipe, with a name or without.
    Pipe,
}

fn kind(metadata: &Metadata) -> io::Result<Kind> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_dir() {
        return Ok(Kind::File);
    }
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_fifo(&kind) {
        return Ok(Kind::Pipe);
    }
    Err(io::Error::other("it is neither a file nor a pipe"))
}

/// Opens the file without waiting for another process to open a pipe for writing.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;

    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    std::fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Reads a pipe to its end, or one byte beyond the limit.
#[cfg(unix)]
fn read_pipe(
    mut file: &File,
    limit: u64,
    timeout: Duration,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    let mut piece = [0; 4096];
    while bytes.len() as u64 <= limit {
        if !has_input(file, timeout)? {
            let seconds = timeout.as_secs();
            let problem = format!("it is a pipe through which nothing came for {seconds} seconds");
            return Err(io::Error::other(problem));
        }
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the pipe has bytes or its last writer is gone. `false`: neither was so in time.
#[cfg(unix)]
fn has_input(file: &File, timeout: Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Other systems have no pipes among their files.
#[cfg(not(unix))]
fn read_pipe(
    mut file: &File,
    limit: u64,
    _timeout: Duration,
    bytes: &mut Vec<u8>,
) -> io::Result<()> {
    (&mut file).take(limit + 1).read_to_end(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once_by_each_reader() {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("file");
        let source = Source::file(&path);
        std::fs::write(&path, "one").unwrap();
        let reader = Reader::default();
        assert_eq!(&*reader.bytes(Credential::Key, &source).unwrap(), b"one");
        std::fs::write(&path, "two").unwrap();
        assert_eq!(&*reader.bytes(Credential::Key, &source).unwrap(), b"one");
        assert!(reader.into_pipes().is_empty());
        assert_eq!(&*Reader::default().bytes(Credential::Key, &source).unwrap(), b"two");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("file");
        let source = Source::file(&path);
        let file = File::create(&path).unwrap();
        file.set_len(4 * MIB).unwrap();
        assert!(Reader::default().bytes(Credential::Chain, &source).is_ok());
        file.set_len(100 * MIB).unwrap();
        for (credential, said) in [
            (Credential::Chain, "it is too large to be a certificate or a key: more than 4 MiB"),
            (Credential::Crl, "it is too large to be a revocation list: more than 64 MiB"),
        ] {
            let error = Reader::default().bytes(credential, &source).unwrap_err();
            assert_eq!(error.problem, said);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_read_to_its_end_and_kept() {
        use std::io::Write;
        use std::process::Command;

        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let content = vec![b'x'; 300_000];
        let writer = std::thread::spawn({
            let (path, content) = (path.clone(), content.clone());
            move || File::create(path).unwrap().write_all(&content).unwrap()
        });
        let reader = Reader::default();
        let source = Source::file(&path);
        assert_eq!(*reader.bytes(Credential::Chain, &source).unwrap(), *content);
        writer.join().unwrap();
        let pipes = reader.into_pipes();
        let later = Reader::keeping(&pipes);
        assert_eq!(*later.bytes(Credential::Key, &source).unwrap(), *content);
        for device in ["/dev/zero", "/dev/null"] {
            let error = later.bytes(Credential::Key, &Source::file(device)).unwrap_err();
            assert_eq!(error.problem, "it is neither a file nor a pipe");
        }
    }
}
