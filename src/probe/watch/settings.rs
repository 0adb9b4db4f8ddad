//! What is probed and how: as it was given, and as files have it, which are read again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::task::spawn_blocking;

use super::WatchError;
use super::files::{Stamped, read_targets};
use crate::config::Source;
use crate::probe::tls::{ClientTls, Keyring};
use crate::probe::{ConnectOptions, Messages, Target, TargetFileError};

/// What is probed and how, as it was given.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) given: Vec<Target>,
    pub(super) target_file: Option<PathBuf>,
    pub(super) connect: ConnectOptions,
    pub(super) messages: Messages,
}

/// What was read of files.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) targets: Vec<Arc<Target>>,
    pub(super) keyring: Arc<Keyring>,
}

impl Settings {
    /// The files that are read again, as they are now.
    pub(super) fn stamps(&self) -> Stamped {
        let tls = &self.connect.tls;
        let credentials = tls.client_credentials.iter();
        let of_credentials = credentials.flat_map(|given| [&given.chain, &given.key]);
        let sources = tls.ca.iter().chain(of_credentials);
        let paths = sources.filter_map(Source::path).map(Path::to_owned);
        Stamped::new(paths.chain(self.target_file.clone()))
    }

    pub(super) fn read(&self) -> Result<Read, WatchError> {
        let Settings { given, target_file, connect, messages } = self;
        let mut targets = given.clone();
        if let Some(file) = target_file {
            targets.extend(read_targets(file)?);
        }
        let keyring = Keyring::read(&connect.tls)?;
        for target in &targets {
            messages.check(target)?;
            connect.check(target)?;
            if target.protocol().is_over_tls() {
                ClientTls::with(target, &connect.tls, &keyring)?;
            }
        }
        let targets = targets.into_iter().map(Arc::new).collect();
        Ok(Read { targets, keyring: Arc::new(keyring) })
    }
}

/// The files, and a look at them that is going on.
pub(super) struct Rereading {
    stamps: Stamped,
    look: Option<BoxFuture<'static, Looked>>,
    /// Whether to look once more, since a look that is going on may have seen the files as they were
    /// before.
    is_due: bool,
}

/// The files as they are, and what was read of them if they have changed.
type Looked = (Stamped, Option<Result<Read, WatchError>>);

impl Rereading {
    /// `stamps` are those of before the files were read.
    pub(super) fn new(stamps: Stamped) -> Self {
        Rereading { stamps, look: None, is_due: false }
    }

    /// Looks whether the files have changed, unless that is going on.
    pub(super) fn look(&mut self, settings: &Arc<Settings>) {
        if self.look.is_none() && self.stamps.has_any() {
            self.begin(settings, false);
        }
    }

    /// Reads the files, whether they have changed or not.
    pub(super) fn reread(&mut self, settings: &Arc<Settings>) {
        match self.look {
            Some(_) => self.is_due = true,
            None => self.begin(settings, true),
        }
    }

    /// Waits for a look that has found something to read. For ever, if none goes on.
    pub(super) async fn done(&mut self, settings: &Arc<Settings>) -> Result<Read, WatchError> {
        loop {
            let (stamps, read) = match &mut self.look {
                Some(look) => look.await,
                None => std::future::pending().await,
            };
            (self.stamps, self.look) = (stamps, None);
            if std::mem::take(&mut self.is_due) {
                self.begin(settings, true);
            } else if let Some(read) = read {
                return read;
            }
        }
    }

    /// Begins to look. It may block for ever, and does so in a thread of its own.
    fn begin(&mut self, settings: &Arc<Settings>, reads_anyway: bool) {
        let (mut stamps, settings) = (std::mem::take(&mut self.stamps), Arc::clone(settings));
        let looking = spawn_blocking(move || {
            let has_changed = stamps.have_changed();
            let read = (has_changed || reads_anyway).then(|| match stamps.irregular() {
                Some(path) => Err(no_file(path)),
                None => settings.read(),
            });
            (stamps, read)
        });
        self.look = Some(Box::pin(async move {
            match looking.await {
                Ok(looked) => looked,
                // The runtime ends, or reading has panicked, which the log says.
                Err(_) => std::future::pending().await,
            }
        }));
    }
}

/// A pipe is waited for, and /dev/zero has no end.
fn no_file(path: &Path) -> WatchError {
    let source = io::Error::other("it is no regular file, and is not read again");
    TargetFileError::Read { path: path.to_owned(), source }.into()
}
