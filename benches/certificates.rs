//! The test certificates, for our server, the controls and their clients alike.

use std::path::PathBuf;

/// A file of `certs/`.
pub fn certs(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name)
}
