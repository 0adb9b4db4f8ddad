//! New certificates for a server that runs: when somebody asks for it, or when the files change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use super::TlsSettings;
use crate::error::StartError;

/// How often the files are looked at. A change counts once two looks in a row have seen the same:
/// by then it has been written to its end.
const LOOK: Duration = Duration::from_secs(1);

/// Reads a server's certificates, keys and lists again.
#[derive(Debug, Clone)]
pub struct TlsReloader {
    settings: Arc<TlsSettings>,
}

impl TlsReloader {
    pub(crate) fn new(settings: Arc<TlsSettings>) -> Self {
        TlsReloader { settings }
    }

    /// Whether there is a file to read again.
    pub fn has_files(&self) -> bool {
        !self.settings.files().is_empty()
    }

    /// Reads all files again, for the handshakes from now on; connections live on. The outcome is
    /// logged.
    ///
    /// # Errors
    /// Something is wrong with a file, or a key is not that of its certificate. What there was
    /// stays in use.
    pub fn reload(&self) -> Result<(), StartError> {
        match self.settings.reload() {
            Ok(()) => {
                info!("Certificates reloaded");
                Ok(())
            }
            Err(problem) => {
                error!(%problem, "Certificates not reloaded; the old ones stay in use");
                Err(problem)
            }
        }
    }

    /// Reloads whenever the files have changed. It does not end.
    pub(crate) async fn watch(self) {
        let files = self.settings.files();
        if files.is_empty() {
            return;
        }
        let mut loaded = look(&files);
        let mut last = loaded.clone();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let now = look(&files);
            if now != loaded && now == last {
                loaded = now.clone();
                // What is wrong has been logged, and is tried again at the next change.
                let _ = self.reload();
            }
            last = now;
        }
    }
}

/// What tells a file from what it was: size, time, and on Unix which file it is.
type Stamp = Option<(u64, Option<SystemTime>, u64)>;

fn look(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some((metadata.len(), metadata.modified().ok(), inode))
    };
    files.iter().map(stamp).collect()
}
