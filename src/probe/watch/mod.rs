//! Watch: rounds for ever on any number of targets, whose state others read from a [`Board`].
//!
//! | file | what it holds |
//! | --- | --- |
//! | `mod`, `options` | what to watch, and how |
//! | `watcher` | the loop: when a round is due, when a name is looked up, what of it is written down |
//! | `lookups` | the addresses of names |
//! | `plan` | which targets at which addresses there are to be probed |
//! | `members` | which of many hosts this one probes |
//! | `round` | one round of one target |
//! | `board`, `series`, `round_trips` | what is known |
//! | `settings`, `files` | what was given, and what is read again when it has changed |
//! | `hash` | a hash that all hosts agree on |
//! | `simulation` | how soon a fault is seen (tests only) |

mod board;
mod files;
mod hash;
mod lookups;
mod members;
mod options;
mod plan;
mod round;
mod round_trips;
mod series;
mod settings;
#[cfg(test)]
mod simulation;
mod watcher;

use std::path::PathBuf;

pub use board::Board;
pub use files::TargetFileError;
pub use options::WatchOptions;
pub use round::Tally;
pub use round_trips::RoundTrips;
pub use series::{Lately, Series};
pub use watcher::{WatchEvent, Watcher};

use super::{ConnectOptions, Messages, ProbeError, Target};

/// Targets that are probed again and again: a round of each begins every so often, spread over the time
/// so that they do not begin together, and never while the round before is going on.
///
/// A round is a connection of its own, [`WatchOptions::count`] messages, and the close. What comes of it
/// is written to a [`Board`].
///
/// ```
/// use std::time::Duration;
///
/// use echo_server::probe::{Watch, WatchOptions};
/// use tokio::sync::Notify;
/// # use echo_server::{Protocol, TestServer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = TestServer::start([Protocol::Tcp]).await;
/// # let url = server.url(Protocol::Tcp);
/// let options = WatchOptions::new("laboratory").every(Duration::from_millis(100));
/// let watcher = Watch::new(options).target(url.parse()?).prepare()?;
/// let board = watcher.board();
/// let reread = Notify::new();
/// // It runs for ever, and ends when it is dropped.
/// let _ = tokio::time::timeout(Duration::from_secs(1), watcher.run(&reread, |_event| {})).await;
/// assert!(board.series().iter().all(|series| series.is_up == Some(true)));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Watch {
    options: WatchOptions,
    targets: Vec<Target>,
    target_file: Option<PathBuf>,
    connect: ConnectOptions,
    messages: Messages,
}

/// Why there is nothing to watch with. Its text is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// An option does not fit a target, or a certificate or key cannot be used.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The file of targets cannot be used.
    #[error(transparent)]
    TargetFile(#[from] TargetFileError),
}

impl Watch {
    /// Nothing yet.
    pub fn new(options: WatchOptions) -> Self {
        Watch {
            options,
            targets: Vec::new(),
            target_file: None,
            connect: ConnectOptions::default(),
            messages: Messages::default(),
        }
    }

    /// Adds a target.
    #[must_use]
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Adds the targets of a file: a URL a line, with comments behind `#`. It is read again when it has
    /// changed.
    #[must_use]
    pub fn target_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.target_file = Some(path.into());
        self
    }

    /// Changes how to connect. The timeout is half of [`WatchOptions::every`] at most.
    #[must_use]
    pub fn connect(mut self, change: impl FnOnce(&mut ConnectOptions)) -> Self {
        change(&mut self.connect);
        self
    }

    /// Changes what is sent.
    #[must_use]
    pub fn messages(mut self, change: impl FnOnce(&mut Messages)) -> Self {
        change(&mut self.messages);
        self
    }

    /// Reads the files. It may block for the time that this takes.
    ///
    /// # Errors
    /// A file cannot be used, or an option does not fit a target.
    pub fn prepare(self) -> Result<Watcher, WatchError> {
        Watcher::new(self)
    }
}
