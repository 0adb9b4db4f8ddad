//! The test certificates, for our server, the controls and their clients alike.

use std::path::{Path, PathBuf};

/// A file of `certs/`, at the top of the repository.
pub fn certs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../certs").join(name)
}
