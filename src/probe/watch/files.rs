//! Files that are read again when they have changed.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::causes;
use crate::probe::{Target, TargetError};

/// What tells that a file is not the one that was read. The file behind a link counts: Kubernetes
/// replaces links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    number: u64,
}

impl Stamp {
    /// `None` if there is no such file.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let number = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let number = 0;
        // A pipe changes with each write, and is read once.
        let is_pipe = !metadata.is_file() && !metadata.is_dir();
        let modified = metadata.modified().ok().filter(|_| !is_pipe);
        let length = if is_pipe { 0 } else { metadata.len() };
        Some(Stamp { modified, length, number })
    }
}

/// Files, and what they were when they were last read.
#[derive(Debug, Default)]
pub(super) struct Stamped {
    stamps: Vec<(PathBuf, Option<Stamp>)>,
}

impl Stamped {
    /// The files as they are now.
    pub(super) fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let stamp = |path: PathBuf| {
            let stamp = Stamp::of(&path);
            (path, stamp)
        };
        Stamped { stamps: paths.into_iter().map(stamp).collect() }
    }

    /// Whether there are any.
    pub(super) fn has_any(&self) -> bool {
        !self.stamps.is_empty()
    }

    /// Those that are no files now, and would be waited for, or have no end.
    pub(super) fn irregular(&self) -> Option<&Path> {
        let is_irregular = |path: &&PathBuf| {
            fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
        };
        self.stamps.iter().map(|(path, _)| path).find(is_irregular).map(PathBuf::as_path)
    }

    /// Whether one of them has changed since the last call.
    pub(super) fn have_changed(&mut self) -> bool {
        let mut have_changed = false;
        for (path, stamp) in &mut self.stamps {
            let now = Stamp::of(path);
            have_changed |= now != *stamp;
            *stamp = now;
        }
        have_changed
    }
}

/// Why a file of targets cannot be used. Its text is one line, and names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetFileError {
    /// It cannot be read.
    #[error("{}: {}", path.display(), causes::of_system(source))]
    #[non_exhaustive]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// A line is no target.
    #[error("{} line {line}: {source}", path.display())]
    #[non_exhaustive]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: TargetError,
    },
}

/// The longest file that is read, in bytes.
const LONGEST: u64 = 16 << 20;

/// Reads a file of targets: a URL a line. What follows a `#` is a comment, and blank lines are none.
pub(super) fn read_targets(path: &Path) -> Result<Vec<Target>, TargetFileError> {
    let text =
        read(path).map_err(|source| TargetFileError::Read { path: path.to_owned(), source })?;
    let mut targets = Vec::new();
    for (at, line) in text.lines().enumerate() {
        // A # within a URL would be its fragment, which no target has.
        let url = line.split('#').next().unwrap_or_default().trim();
        if url.is_empty() {
            continue;
        }
        let target = url.parse().map_err(|source| {
            let path = path.to_owned();
            TargetFileError::Line { path, line: at + 1, source }
        })?;
        targets.push(target);
    }
    // A file that is being written may be seen when it is empty.
    if targets.is_empty() {
        let source = io::Error::other("there is no URL in it");
        return Err(TargetFileError::Read { path: path.to_owned(), source });
    }
    Ok(targets)
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("it is longer than 16 MiB"));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| io::Error::other("it is no text in UTF-8, with a URL in each line"))?;
    // Windows' editors write a byte order mark.
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_url_a_line_and_comments() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("targets");
        fs::write(&path, "# ours\ntcp://a:1\n\n  udp://b:2 # theirs\r\n").unwrap();
        let urls: Vec<_> = read_targets(&path).unwrap().iter().map(Target::to_string).collect();
        assert_eq!(urls, ["tcp://a:1", "udp://b:2"]);
        fs::write(&path, "\u{feff}tcp://a:1\r\n").unwrap();
        assert_eq!(read_targets(&path).unwrap().len(), 1);
        fs::write(&path, [0xff, 0xfe]).unwrap();
        let error = read_targets(&path).unwrap_err().to_string();
        assert!(error.ends_with(": it is no text in UTF-8, with a URL in each line"), "{error}");
        fs::write(&path, "tcp://a:1\nb:2\n").unwrap();
        let error = read_targets(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} line 2: 'b:2' ", path.display())), "{error}");
        let missing = read_targets(&directory.path().join("none")).unwrap_err();
        assert!(matches!(missing, TargetFileError::Read { .. }));
    }

    #[test]
    fn a_file_that_is_replaced_has_changed_and_then_not_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("one"), directory.path().join("other"));
        fs::write(&path, "a").unwrap();
        let mut files = Stamped::new([path.clone(), directory.path().join("none")]);
        assert!(!files.have_changed());
        fs::write(&other, "b").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(files.have_changed());
        assert!(!files.have_changed());
        fs::remove_file(&path).unwrap();
        assert!(files.have_changed());
    }
}
