//! Echoes: the probe's load on a server, and what the load costs the server.

use std::time::{Duration, Instant};

use echo_server::Protocol;
use echo_server::probe::{Event, LoadOptions, Probe, Progress, Summary};

use super::counter::{COUNTING, Counted, Counter};
use super::plan::Load;
use super::process;
use super::sample::{Metric, Sample, Trouble};
use super::servers::Running;
use crate::certificates::certs;

/// How long a server is warmed up, by 50 connections at most.
const WARM_UP: Duration = Duration::from_millis(200);

/// The beginning of a load that is not measured: its first messages are sent all at once, while the
/// server may still be accepting the last connections. The probe reports progress every 0.2 s.
const SETTLING: Duration = Duration::from_millis(150);

/// With fewer connections than this, memory per connection is not computed: it would mostly be the
/// process's own.
const MANY: usize = 1000;

/// Puts `load` on `server` for this many `seconds`.
pub async fn measure(server: &Running, load: &Load, seconds: f64) -> Result<Sample, Trouble> {
    let duration = Duration::from_secs_f64(seconds);
    run(
        server,
        &Load { connections: load.connections.min(50), ..*load },
        duration.min(WARM_UP),
        |_| {},
    )
    .await?;
    let pid = server.pid();
    let before = process::resident(pid);
    let (mut first, mut last) = (None, None);
    let summary = run(server, load, duration, |progress| {
        if progress.elapsed < SETTLING || progress.elapsed > duration {
            return;
        }
        let mark = Mark::now(pid, &progress);
        first.get_or_insert(mark);
        last = Some(Mark { resident: process::resident(pid), ..mark });
    })
    .await?;
    let mut sample = Sample::of(&summary);
    sample.values.insert(Metric::Rate, summary.rate());
    if let (Some(first), Some(last)) = (first, last)
        && last.echoes > first.echoes
        // A load that hardly got any CPU time shows too little.
        && last.at - first.at >= duration / 3
    {
        let echoes = (last.echoes - first.echoes) as f64;
        sample.values.insert(Metric::Rate, echoes / (last.at - first.at).as_secs_f64());
        if let Some((from, to)) = first.cpu.zip(last.cpu) {
            sample.values.insert(Metric::Cpu, to.saturating_sub(from).as_nanos() as f64 / echoes);
        }
        if let Some((before, after)) = before.zip(last.resident)
            && load.connections >= MANY
        {
            let grown = after.saturating_sub(before) as f64;
            sample.values.insert(Metric::Resident, grown / load.connections as f64);
        }
    }
    Ok(sample)
}

/// What `server` does for an echo of `load`. `None` if it cannot be counted.
pub async fn count(
    server: &Running,
    load: &Load,
    counter: Counter,
) -> Result<Option<(Counted, u64)>, Trouble> {
    let (mut counting, mut echoes, mut found) = (None, 0, None);
    // The load waits while the counter attaches, so the clock is ours.
    // Progress is told every 0.2 s, and perf takes a while to attach.
    let duration = 5 * COUNTING;
    run(server, load, duration, |progress| {
        if counting.is_none() && found.is_none() && progress.elapsed > SETTLING {
            echoes = progress.sent;
            counting = counter.attach(server.pid()).map(|counter| (Instant::now(), counter));
        } else if let Some((_, counter)) =
            counting.take_if(|(since, _)| since.elapsed() >= COUNTING)
        {
            let echoes = progress.sent.saturating_sub(echoes);
            found = Some(counter.detach().map(|counted| (counted, echoes)));
        }
    })
    .await?;
    Ok(found.flatten())
}

/// The counters at some time.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    echoes: u64,
    cpu: Option<Duration>,
    resident: Option<u64>,
}

impl Mark {
    fn now(pid: u32, progress: &Progress) -> Mark {
        let cpu = process::cpu_time(pid);
        let echoes = progress.replies;
        Mark { at: Instant::now(), echoes, cpu, resident: None }
    }
}

async fn run(
    server: &Running,
    load: &Load,
    duration: Duration,
    mut tell: impl FnMut(Progress),
) -> Result<Summary, Trouble> {
    let url = format!("{}://{}", server.protocol, server.address);
    let target = url.parse().map_err(|error| format!("{error}"))?;
    let probe = Probe::new(target)
        .connect(|connect| connect.tls.ca = Some(certs("ca.pem").into()))
        .messages(|messages| {
            messages.size = load.size;
            // A protocol without text messages gets the same number of bytes instead.
            messages.is_text =
                load.is_text && matches!(server.protocol, Protocol::Ws | Protocol::Wss);
        });
    let mut options = LoadOptions::new()
        .connections(load.connections)
        .in_flight(load.in_flight)
        .duration(duration)
        .warm_up(SETTLING)
        .timeout(match server.protocol {
            // A lost datagram must not leave its flow idle for long.
            Protocol::Udp => Duration::from_millis(250),
            _ => Duration::from_secs(10),
        });
    options.rate = load.rate;
    let load = probe.load(options).on_event(|event| {
        if let Event::Progress(progress) = event {
            tell(progress);
        }
    });
    load.run().await.map_err(|error| error.to_string())
}
