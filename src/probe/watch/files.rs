//! Files that are read again when they have changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), number })
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
    #[error("{}: {source}", path.display())]
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

/// Reads a file of targets: a URL a line. What follows a `#` is a comment, and blank lines are none.
pub(super) fn read_targets(path: &Path) -> Result<Vec<Target>, TargetFileError> {
    let text = fs::read_to_string(path)
        .map_err(|source| TargetFileError::Read { path: path.to_owned(), source })?;
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
    Ok(targets)
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
