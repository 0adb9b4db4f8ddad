//! Prints lines in a thread of its own, so that a reader of standard output who does not read keeps
//! nothing from its work but the lines.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

use tokio::sync::Notify;

/// So many lines wait for the reader. More are left out, and counted.
const WAITING: usize = 20_000;

/// Prints lines. A clone prints to the same place.
#[derive(Clone)]
pub struct Lines {
    sender: SyncSender<Option<String>>,
    left_out: Arc<AtomicU64>,
    closed: Arc<Notify>,
}

impl Lines {
    pub fn start() -> io::Result<Self> {
        let (sender, lines) = sync_channel::<Option<String>>(WAITING);
        let (left_out, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let (count, done) = (Arc::clone(&left_out), Arc::clone(&closed));
        thread::Builder::new().name("lines".to_owned()).spawn(move || {
            while let Ok(Some(line)) = lines.recv() {
                super::print(&line);
                let count = count.swap(0, Ordering::Relaxed);
                if count > 0 {
                    super::print(&format!("{count} lines were left out: nobody read them"));
                }
            }
            done.notify_one();
        })?;
        Ok(Lines { sender, left_out, closed })
    }

    /// Prints a line when its turn comes.
    pub fn print(&self, line: String) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Some(line)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all has been printed.
    pub async fn close(&self) {
        let sender = self.sender.clone();
        // There may be no room for it.
        let _ = tokio::task::spawn_blocking(move || sender.send(None)).await;
        self.closed.notified().await;
    }
}
