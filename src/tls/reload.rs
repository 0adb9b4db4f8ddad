//! New certificates for a server that runs: when somebody asks for it, or when the files change.

use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use super::TlsSettings;
use crate::error::StartError;

/// How often the files are checked. A change counts once two checks in a row have seen the same: by
/// then it has been written to its end.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

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
    /// logged. It may block, as reading files may.
    ///
    /// # Errors
    /// Something is wrong with a file, or a key is not that of its certificate. What there was
    /// stays in use.
    pub fn reload(&self) -> Result<(), StartError> {
        let reloaded = self.settings.reload();
        log_reload(&reloaded);
        reloaded
    }

    /// Reloads whenever the files have changed, and again if that failed. It does not end.
    pub(crate) async fn watch(self) {
        let files = self.settings.files();
        if files.is_empty() {
            return;
        }
        let mut last = Vec::new();
        let mut failed: Option<String> = None;
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            checks.tick().await;
            // A file may be on a disk that does not answer.
            let (settings, paths) = (Arc::clone(&self.settings), files.clone());
            let checked = tokio::task::spawn_blocking(move || {
                let loaded = settings.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let now = stamps(&paths);
                (now != loaded, now)
            });
            let Ok((is_new, now)) = checked.await else { return };
            if is_new && now == last {
                let settings = Arc::clone(&self.settings);
                let reloaded = tokio::task::spawn_blocking(move || settings.reload());
                let Ok(reloaded) = reloaded.await else { return };
                let problem = reloaded.as_ref().err().map(ToString::to_string);
                // It is tried until it works, and said once.
                if problem.is_none() || problem != failed {
                    log_reload(&reloaded);
                }
                failed = problem;
            }
            last = now;
        }
    }
}

fn log_reload(reloaded: &Result<(), StartError>) {
    match reloaded {
        Ok(()) => info!("Certificates reloaded"),
        Err(problem) => error!(%problem, "Certificates not reloaded; the old ones stay in use"),
    }
}

/// What tells a file from what it was: size, times, and on Unix which file it is.
pub(super) type FileStamp = Option<(u64, Option<SystemTime>, [i64; 4])>;

pub(super) fn stamps(files: &[PathBuf]) -> Vec<FileStamp> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok(), identity(&metadata)))
    };
    files.iter().map(stamp).collect()
}

/// Device and inode, and when anything about it was changed, its mode too.
#[cfg(unix)]
fn identity(metadata: &Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev() as i64, metadata.ino() as i64, metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> [i64; 4] {
    [0; 4]
}
