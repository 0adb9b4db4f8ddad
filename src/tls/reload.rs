//! Reloads the certificates of a running server, on request and when the files change.

use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{error, info};

use super::TlsSettings;
use crate::error::StartError;

/// How often the files are checked. A change counts once two consecutive checks see the same
/// stamps, so that a half-written file is not read.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a reload may take before the log says so.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Reloads a server's certificates, keys and revocation lists.
#[derive(Debug, Clone)]
pub struct TlsReloader {
    settings: Arc<TlsSettings>,
}

impl TlsReloader {
    pub(crate) fn new(settings: Arc<TlsSettings>) -> Self {
        TlsReloader { settings }
    }

    /// Whether anything is read from files, and not from memory.
    pub fn has_files(&self) -> bool {
        !self.settings.files().is_empty()
    }

    /// Like [`TlsReloader::reload`], on a thread of its own. If it takes long, because a disk or a
    /// network file system does not respond, the log says so, and it goes on.
    ///
    /// # Errors
    /// Those of [`TlsReloader::reload`].
    ///
    /// # Panics
    /// If called outside a tokio runtime.
    pub async fn reload_in_background(&self) -> Result<(), StartError> {
        let reloader = self.clone();
        match in_time(tokio::task::spawn_blocking(move || reloader.reload())).await {
            Ok(reloaded) => reloaded,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime shuts down, and this future with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Reads all files again. Later handshakes use the new certificates; existing connections are
    /// not affected. The outcome is logged. This reads files, so it may block.
    ///
    /// # Errors
    /// A file is unusable, or a key does not match its certificate. The previous certificates stay
    /// in use.
    pub fn reload(&self) -> Result<(), StartError> {
        let reloaded = self.settings.reload();
        log_reload(&reloaded);
        reloaded
    }

    /// Reloads whenever the files have changed, and retries if that fails. It returns at once if
    /// there are no files, and otherwise never.
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
            // Reading metadata blocks while a disk or network file system does not respond.
            let (settings, paths) = (Arc::clone(&self.settings), files.clone());
            let checked = tokio::task::spawn_blocking(move || {
                let loaded = settings.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let now = stamps(&paths);
                (now != loaded, now)
            });
            let Ok((is_new, now)) = checked.await else { return };
            if is_new && now == last {
                let settings = Arc::clone(&self.settings);
                let reload = tokio::task::spawn_blocking(move || settings.reload());
                let Ok(reloaded) = in_time(reload).await else { return };
                let problem = reloaded.as_ref().err().map(ToString::to_string);
                // A retry that fails in the same way is not logged again.
                if problem.is_none() || problem != failed {
                    log_reload(&reloaded);
                }
                failed = problem;
            }
            last = now;
        }
    }
}

/// Waits for a reload, and says so if it takes longer than [`RELOAD_TIMEOUT`]. Nobody can end the
/// thread that reads, so that a second one would only be stuck, too.
async fn in_time<T>(mut reload: JoinHandle<T>) -> Result<T, JoinError> {
    if let Ok(reloaded) = timeout(RELOAD_TIMEOUT, &mut reload).await {
        return reloaded;
    }
    error!(
        "Certificates not reloaded: reading the files takes longer than {} s; the old ones stay in \
         use until it ends",
        RELOAD_TIMEOUT.as_secs()
    );
    reload.await
}

fn log_reload(reloaded: &Result<(), StartError>) {
    match reloaded {
        Ok(()) => info!("Certificates reloaded"),
        Err(problem) => error!(%problem, "Certificates not reloaded; the old ones stay in use"),
    }
}

/// What shows that a file has changed: its size and times, and on Unix its identity. `None` for what
/// is no regular file.
pub(super) type FileStamp = Option<(u64, Option<SystemTime>, [i64; 4])>;

pub(super) fn stamps(files: &[PathBuf]) -> Vec<FileStamp> {
    let stamp = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
        Some((metadata.len(), metadata.modified().ok(), file_id(&metadata)))
    };
    files.iter().map(stamp).collect()
}

/// Device, inode, and the time of the last change of content or metadata (ctime).
#[cfg(unix)]
fn file_id(metadata: &Metadata) -> [i64; 4] {
    use std::os::unix::fs::MetadataExt;
    [metadata.dev() as i64, metadata.ino() as i64, metadata.ctime(), metadata.ctime_nsec()]
}

#[cfg(not(unix))]
fn file_id(_metadata: &Metadata) -> [i64; 4] {
    [0; 4]
}
