//! `echo-server probe --every`: watches targets until a signal ends it.

use std::process::ExitCode;
use std::sync::Arc;

use echo_server::Admin;
use echo_server::probe::Board;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;

use crate::cli::Watch;
use crate::report::lines::Lines;
use crate::report::watch::Report;
use crate::signals::{Hangups, Quits, Signals};
use crate::{REFUSED, USAGE, flags};

/// A reply differed from what was sent.
const DIFFERENT: u8 = 5;

pub fn run(watch: Watch) -> ExitCode {
    let _ = crate::descriptors::raise_limit();
    let runtime = match crate::threads::runtime() {
        Ok(runtime) => runtime,
        Err(error) => return crate::fail(REFUSED, &format!("no runtime: {error}")),
    };
    let code = runtime.block_on(execute(watch));
    // A name is resolved by a blocking call that cannot be interrupted, so do not wait for it.
    runtime.shutdown_background();
    match code {
        Ok(code) => ExitCode::from(code),
        Err((code, problem)) => crate::fail(code, &problem),
    }
}

async fn execute(Watch { watch, export, output }: Watch) -> Result<u8, (u8, String)> {
    let caught = |error| (REFUSED, format!("signals cannot be caught: {error}"));
    let mut signals = Signals::catch().map_err(caught)?;
    let mut quits = Quits::catch().map_err(caught)?;
    let reread = reread_on_hangup().map_err(caught)?;
    // A file may be a pipe that nobody writes to.
    let prepared = tokio::select! {
        prepared = spawn_blocking(|| watch.prepare()) => prepared,
        _ = signals.next() => return Ok(REFUSED),
    };
    let prepared = prepared.expect("preparing does not panic");
    let watcher = prepared.map_err(|error| (USAGE, flags::watch_error(&error)))?;
    let board = watcher.board();
    let lines = Lines::start().map_err(|error| (REFUSED, format!("no thread: {error}")))?;
    let report = Report::new(output, lines.clone());
    if let Some(address) = export {
        let admin = Admin::bind_watch(board.clone(), &address)
            .await
            .map_err(|error| (REFUSED, flags::export_error(&error)))?;
        report.listening(admin.local_addrs());
        tokio::spawn(admin.serve());
    }
    let mut running = std::pin::pin!(watcher.run(&reread, |event| report.event(&event)));
    loop {
        tokio::select! {
            never = &mut running => match never {},
            _ = signals.next() => break,
            () = quits.next() => report.summary(&board),
        }
    }
    report.summary(&board);
    tokio::select! {
        () = lines.close() => Ok(exit_code(&board)),
        // Nobody reads standard output.
        _ = signals.next() => Ok(REFUSED),
    }
}

/// What is notified by SIGHUP.
fn reread_on_hangup() -> std::io::Result<Arc<Notify>> {
    let mut hangups = Hangups::catch()?;
    let reread = Arc::new(Notify::new());
    let notified = Arc::clone(&reread);
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            notified.notify_one();
        }
    });
    Ok(reread)
}

/// Whether anything was probed, all is up, and all messages came back.
fn exit_code(board: &Board) -> u8 {
    let series = board.series();
    let is_clean = series.iter().any(|one| one.rounds > 0)
        && series.iter().all(|one| {
            one.is_up != Some(false)
                && one.failures.is_empty()
                && one.messages.sent == one.messages.received
        });
    match series.iter().any(|one| one.messages.corrupted > 0) {
        true => DIFFERENT,
        false if is_clean => 0,
        false => REFUSED,
    }
}
