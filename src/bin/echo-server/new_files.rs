//! Creates a set of files: either all of them, or none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Who may read a new file.
#[derive(Debug, Clone, Copy)]
pub enum Readable {
    ByOwner,
    /// By everybody, as far as the umask allows it.
    ByAll,
}

/// The directories and files created so far. Dropping this removes them, unless [`NewFiles::keep`]
/// is called.
#[derive(Debug, Default)]
pub struct NewFiles {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl NewFiles {
    /// Creates the directory `path` and its missing parents. It may exist already.
    ///
    /// # Errors
    /// One line: which directory could not be created, and why.
    pub fn directory(&mut self, path: &Path) -> Result<(), String> {
        // The last ancestor of a relative path is empty.
        let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let missing: Vec<_> = path.ancestors().take_while(is_missing).collect();
        for path in missing.into_iter().rev() {
            match fs::create_dir(path) {
                Ok(()) => self.directories.push(path.to_owned()),
                // Somebody else created it meanwhile, or the path ends in "..".
                Err(_) if path.is_dir() => {}
                Err(error) => return Err(message(path, &error)),
            }
        }
        Ok(())
    }

    /// Writes `content` to a new file. `path` must not exist, not even as a dangling link.
    ///
    /// # Errors
    /// One line: the file, and why it could not be written.
    pub fn file(&mut self, path: &Path, readable: Readable, content: &str) -> Result<(), String> {
        let mut file = create(path, readable).map_err(|error| message(path, &error))?;
        self.files.push(path.to_owned());
        // Some file systems report a full disk only when the data is synced.
        let written = file.write_all(content.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|error| message(path, &error))
    }

    /// Keeps everything that was created.
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
        // This fails for a directory that is not empty: what others have put there stays.
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// Creates the file with its final mode, so that others can never open a private key.
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

fn message(path: &Path, error: &io::Error) -> String {
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
    fn dropping_removes_the_files_and_the_new_directories() {
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
