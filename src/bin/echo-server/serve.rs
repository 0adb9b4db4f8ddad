//! `echo-server`: runs the library's server with a log, signals and a ready file.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use echo_server::probe::Watcher;
use echo_server::{
    Address, Admin, Config, Fingerprint, Identity, ListenAddress, LocalAddr, Server, StartError,
    TlsReloader, UnixAddress,
};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use crate::cli::{Mesh, Options};
use crate::ready_file::ReadyFile;
use crate::signals::{Hangups, Signals};
use crate::systemd::{self, Service};
use crate::threads::{Threads, runtime};
use crate::{REFUSED, USAGE, descriptors, flags, log, mesh};

/// Runs a server until a signal ends it.
pub fn run(mut options: Options) -> ExitCode {
    // Before anything that opens a file or starts a thread.
    options.config.inherited = systemd::inherited();
    let log = match log::start(options.log) {
        Ok(log) => log,
        Err(_) => {
            let problem = "RUST_LOG: it is no filter, such as info or echo_server=debug,h2=trace";
            return crate::fail(USAGE, problem);
        }
    };
    for problem in &options.unknown_variables {
        warn!("{problem}");
    }
    std::panic::set_hook(Box::new(|panic| error!("A bug: {panic}")));
    if let Err(error) = descriptors::raise_limit() {
        warn!(%error, "Could not raise the limit on open descriptors");
    }
    let started = Threads::start(options.threads).and_then(|threads| Ok((threads, runtime()?)));
    let (threads, runtime) = match started {
        Ok(started) => started,
        Err(error) => {
            return crate::fail(REFUSED, &format!("could not start a thread: {error}"));
        }
    };
    let outcome = runtime.block_on(serve(options, threads.handles()));
    // A blocking thread may still wait for a reader of the ready file; do not wait for that thread.
    runtime.shutdown_background();
    drop(threads);
    log.summarize();
    drop(log);
    match outcome {
        Ok(code) => code,
        Err((code, message)) => crate::fail(code, &message),
    }
}

async fn serve(options: Options, threads: Vec<Handle>) -> Result<ExitCode, (u8, String)> {
    let mut signals = Signals::catch()
        .map_err(|error| (REFUSED, format!("signals cannot be caught: {error}")))?;
    let mut hangups =
        Hangups::catch().map_err(|error| (REFUSED, format!("SIGHUP cannot be caught: {error}")))?;
    let ready_file = options.ready_file.map(ReadyFile::prepare).transpose();
    let ready_file = ready_file.map_err(|error| (REFUSED, error))?;
    let service = Service::from_environment();
    let timeouts = options.config.timeouts;
    let is_self_signed = options.config.identity == Identity::SelfSigned;
    let starting = async {
        let bound = bind(options.config, threads, options.admin).await;
        let (server, admin) = bound.map_err(|error| {
            (if error.is_config() { USAGE } else { REFUSED }, flags::start_error(&error))
        })?;
        let watcher = match options.mesh {
            Some(mesh) => Some(prepare(mesh, &server).await?),
            None => None,
        };
        Ok((server, admin, watcher))
    };
    // A name server, a disk or a pipe may not respond.
    let (server, admin, watcher) = tokio::select! {
        started = starting => started?,
        signal = signals.next() => {
            warn!(signal, "Ended before the server listened");
            return Ok(ExitCode::SUCCESS);
        }
    };
    if is_self_signed {
        show_pin(&server);
    }
    let reloader = server.tls_reloader().filter(TlsReloader::has_files);
    let reloads = service.clone();
    let reread = Arc::new(Notify::new());
    let mesh_rereads = watcher.as_ref().map(|_| Arc::clone(&reread));
    // It goes on during the drain, as handshakes do during the delay before it.
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            mesh_rereads.iter().for_each(|reread| reread.notify_one());
            reloads.reloading().await;
            let Some(reloader) = reloader.clone() else {
                if mesh_rereads.is_none() {
                    info!(
                        "SIGHUP received; there is nothing to reload: no certificates are read from files"
                    );
                }
                reloads.reloaded().await;
                continue;
            };
            // It logs its outcome. SIGHUPs that come meanwhile lead to one more reload.
            let _ = reloader.reload_in_background().await;
            reloads.reloaded().await;
        }
    });
    let admin_addrs = admin.as_ref().map_or_else(Vec::new, |admin| admin.local_addrs().to_vec());
    let admin = match &watcher {
        Some(watcher) => admin.map(|admin| admin.with_watch(watcher.board())),
        None => admin,
    };
    if let Some(admin) = admin {
        // It answers until the runtime ends, which is after the drain.
        tokio::spawn(admin.serve());
    }
    let mut early_signal = None;
    if let Some(file) = ready_file {
        // Opening a pipe blocks until somebody reads it, so this must not block the signals.
        let local_addrs = server.local_addrs().to_vec();
        let announced =
            tokio::task::spawn_blocking(move || file.announce(&local_addrs, &admin_addrs));
        tokio::select! {
            announced = announced => {
                announced.expect("announcing does not panic").map_err(|error| (REFUSED, error))?;
            }
            signal = signals.next() => early_signal = Some(signal),
        }
    }
    if let Some(watcher) = watcher {
        let reread = Arc::clone(&reread);
        tokio::spawn(async move {
            let mut log = mesh::Log::new();
            watcher.run(&reread, |event| log.event(&event)).await
        });
    }
    service.ready(&server);
    let (stop, stopped) = oneshot::channel::<()>();
    let mut running = pin!(server.run(async { drop(stopped.await) }));
    let signal = match early_signal {
        // The server still runs, and drains: clients may have connected already.
        Some(signal) => signal,
        None => tokio::select! {
            _ = &mut running => unreachable!("the server runs until it is stopped"),
            signal = signals.next() => signal,
        },
    };
    info!(signal, "Signal received; a second one ends the process at once");
    service.stopping(timeouts.drain_delay.saturating_add(timeouts.drain)).await;
    drop(stop);
    tokio::select! {
        summary = running => {
            Ok(if summary.aborted == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
        }
        signal = signals.next() => {
            warn!(signal, "Ended at once");
            Ok(ExitCode::from(REFUSED))
        }
    }
}

/// Binds the server, and the admin endpoint if there is to be one.
async fn bind(
    config: Config,
    threads: Vec<Handle>,
    admin: Option<ListenAddress>,
) -> Result<(Server, Option<Admin>), StartError> {
    let mut server = Server::bind_over(config, threads).await?;
    let admin = match admin {
        Some(address) => Some(Admin::bind(&mut server, &address).await?),
        None => None,
    };
    server.check_inherited()?;
    Ok((server, admin))
}

/// Prepares to probe the peers of `server`. A file may be a pipe that nobody writes to.
async fn prepare(mesh: Mesh, server: &Server) -> Result<Watcher, (u8, String)> {
    let served = server.local_addrs().to_vec();
    let prepared = spawn_blocking(move || mesh::prepare(mesh, &served)).await;
    prepared.expect("preparing does not panic").map_err(|problem| (USAGE, problem))
}

/// Shows the command that trusts the self-signed certificate, which no CA vouches for.
fn show_pin(server: &Server) {
    let is_over_tls = |listener: &&LocalAddr| listener.protocol.is_over_tls();
    if let (Some(LocalAddr { protocol, address, .. }), Some(certificate)) =
        (server.local_addrs().iter().find(is_over_tls), server.certificate_chain().first())
    {
        let fingerprint = Fingerprint::of(certificate);
        let url = match address {
            // Every address of this machine.
            Address::Ip(ip) if ip.ip().is_unspecified() => {
                format!("{protocol}://localhost:{}", ip.port())
            }
            Address::Ip(ip) => format!("{protocol}://{ip}"),
            Address::Unix(UnixAddress::Path(path)) => {
                format!("{protocol}+unix://{}", path.display())
            }
            // A name in the abstract namespace would have to be encoded.
            _ => return,
        };
        info!("To trust it: echo-server probe {url} --pin {fingerprint}");
    }
}
