//! New files that stay all, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Who may read a new file.
#[derive(Debug, Clone, Copy)]
pub enum Readable {
    ByOwner,
    /// As far as the umask lets them.
    ByAll,
}

/// What was made so far. It is removed again, unless it is kept.
#[derive(Debug, Default)]
pub struct NewFiles {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl NewFiles {
    /// Makes `path` and what is missing above it. If it is there, that is fine too.
    ///
    /// # Errors
    /// One line: what could not be made, and why.
    pub fn directory(&mut self, path: &Path) -> Result<(), String> {
        // The last of the ancestors of a relative path is empty.
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = path.ancestors().take_while(is_missing).collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => self.directories.push(path.to_owned()),
                // Somebody was faster, or it ends in "..".
                Err(_) if path.is_dir() => {}
                Err(error) => return Err(refusal(path, &error)),
            }
        }
        Ok(())
    }

    /// Writes `content` to `path`, where nothing may be, not even a link to nowhere.
    ///
    /// # Errors
    /// One line: the file, and why it could not be written.
    pub fn file(&mut self, path: &Path, readable: Readable, content: &str) -> Result<(), String> {
        let mut file = create(path, readable).map_err(|error| refusal(path, &error))?;
        self.files.push(path.to_owned());
        // Some disks are found to be full only when the bytes must go there.
        let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| refusal(path, &error))
    }

    /// All is well.
    pub fn keep(mut self) {
        self.directories.clear();
        self.files.clear();
    }
}

impl Drop for NewFiles {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
        // What somebody else has put something into stays.
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The mode is there from the first moment on: there is none in which others can open a key.
fn create(path: &Path, readable: Readable) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(
        &mut options,
        match readable {
            Readable::ByOwner => 0o600,
            Readable::ByAll => 0o644,
        },
    );
    #[cfg(not(unix))]
    let _ = readable;
    options.open(path)
}

fn refusal(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{}: it exists already; nothing was written", path.display())
        }
        _ => format!("{}: {error}; nothing was written", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(path: &Path) -> NewFiles {
        let mut files = NewFiles::default();
        files.directory(path).unwrap();
        files.file(&path.join("one"), Readable::ByAll, "1").unwrap();
        files.file(&path.join("two"), Readable::ByOwner, "2").unwrap();
        files
    }

    #[test]
    fn what_is_not_kept_goes_with_the_directories_made_for_it() {
        let there = tempfile::tempdir().unwrap();
        let deep = there.path().join("a/b/c");
        let mut files = make(&deep);
        let error = files.file(&deep.join("one"), Readable::ByAll, "again").unwrap_err();
        assert!(error.contains("a/b/c/one: it exists already"), "{error}");
        drop(files);
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_kept_stays() {
        let there = tempfile::tempdir().unwrap();
        let deep = there.path().join("a/../a/b");
        make(&deep).keep();
        assert_eq!(fs::read_to_string(deep.join("two")).unwrap(), "2");
    }

    #[test]
    fn what_others_put_there_stays() {
        let there = tempfile::tempdir().unwrap();
        let deep = there.path().join("a");
        let files = make(&deep);
        fs::write(deep.join("theirs"), "").unwrap();
        drop(files);
        assert_eq!(fs::read_dir(deep).unwrap().count(), 1);
    }
}
