//! Lines for people, and on a terminal a line that shows how a load is going.

use std::fmt::Write;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::styling::{AnsiColor, Style};
use echo_server::probe::{
    Arrival, Connected, Connecting, Event, LoadOptions, Probe, Progress, Reply, Summary, Target,
    Verdict,
};
use indicatif::{ProgressBar, ProgressStyle};

use super::{Largest, Printer, different, facts, label, print, verdict};
use crate::cli::{Mode, Output};
use crate::flags;

/// The largest payload that the search tries.
const MAX_PAYLOAD: usize = 65_507;

/// What is not as it should be.
const WRONG: Style = AnsiColor::Red.on_default().bold();

pub(super) struct Text {
    target: Target,
    /// What stands in front of each line if there are several targets.
    label: String,
    has_timestamps: bool,
    size: usize,
    load: Option<LoadOptions>,
    /// The connection that the next message is sent on, if each has its own.
    connection: Option<Connected>,
    is_each: bool,
    /// Visible on a terminal only.
    bar: Option<ProgressBar>,
    /// The last two progresses: the rate now is that between them.
    progress: [Option<Progress>; 2],
    /// Whether the largest datagram is searched for. The result comes first on standard output.
    is_search: bool,
}

impl Text {
    pub(super) fn new(probe: &Probe, mode: &Mode, output: Output, is_one_of_many: bool) -> Self {
        let target = probe.target().clone();
        let label = if is_one_of_many { label(&target) + ": " } else { String::new() };
        let load = match mode {
            Mode::Load(options) => Some(options.clone()),
            _ => None,
        };
        Text {
            target,
            label,
            has_timestamps: output.has_timestamps,
            size: probe.message_size(),
            load,
            connection: None,
            is_each: matches!(mode, Mode::Ping(options) if options.connect_each),
            bar: None,
            progress: [None, None],
            is_search: matches!(mode, Mode::FindMtu(_)),
        }
    }

    fn line(&self, text: &str) {
        let mut line = String::new();
        if self.has_timestamps {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let _ = write!(line, "[{}.{:06}] ", now.as_secs(), now.subsec_micros());
        }
        print(&(line + &self.label + text));
    }

    fn wrong(&self, text: &str) {
        self.line(&format!("{WRONG}{text}{WRONG:#}"));
    }

    fn connected(&mut self, connected: &Connected) {
        if self.is_search {
            return;
        }
        if self.is_each && self.connection.replace(connected.clone()).is_some() {
            return;
        }
        let mut first = match self.label.is_empty() {
            true => format!("{} at {}", self.target, connected.peer),
            false => format!("at {}", connected.peer),
        };
        // A load has many of them, and its summary has the times of all.
        if let Some(local) = connected.local.filter(|_| self.load.is_none()) {
            let _ = write!(first, " from {local}");
        }
        self.line(&first);
        if !self.is_each && self.load.is_none() {
            self.line(&phases(connected).join(", "));
        }
        if let Some(facts) = &connected.tls_facts {
            self.line(&facts.to_string());
        }
        if let Some(name) = &connected.subprotocol {
            self.line(&format!("subprotocol {name}"));
        }
        if let Some(load) = &self.load {
            self.line(&header(load, self.size));
        }
    }

    fn reply(&self, reply: &Reply) {
        let seq = reply.seq.map_or("?".to_owned(), |seq| seq.to_string());
        let mut line = format!("seq={seq} size={}", reply.size);
        if let Some(rtt) = reply.rtt {
            let _ = write!(line, " rtt={}", ms(rtt));
        }
        if let Some(connection) = self.connection.as_ref().filter(|_| self.is_each) {
            let _ = write!(line, " ({})", phases(connection).join(", "));
        }
        if reply.is_reordered {
            let _ = write!(line, " {WRONG}reordered{WRONG:#}");
        }
        if reply.verdict != Verdict::Echoed {
            let _ = write!(line, " {WRONG}{}{WRONG:#}", verdict(reply.verdict).to_uppercase());
        }
        if let Some(difference) = reply.difference {
            line += &different(&difference);
        } else if reply.verdict == Verdict::Corrupted && reply.seq.is_some() {
            line += ": text for binary, or binary for text";
        }
        self.line(&line);
    }

    fn bar(&mut self, length: u64) -> &ProgressBar {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("[{bar:20}] {msg}");
            ProgressBar::new(length)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_length(length);
        bar
    }

    fn connecting(&mut self, connecting: Connecting) {
        let Connecting { established, failed, wanted, .. } = connecting;
        let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
        let bar = self.bar(wanted as u64);
        bar.set_position(established as u64);
        bar.set_message(format!("connecting: {established} of {wanted}{failed}"));
    }

    fn progress(&mut self, progress: &Progress) {
        self.progress.swap(0, 1);
        self.progress[1] = Some(progress.clone());
        let message = self.live();
        let Some(load) = &self.load else { return };
        let limit = if progress.is_warm_up { Some(load.warm_up) } else { load.time_limit() };
        let (position, length) = match (limit, load.count) {
            (Some(limit), None) => (progress.elapsed.as_millis() as u64, limit.as_millis() as u64),
            (_, Some(count)) if !progress.is_warm_up => (progress.sent, count),
            (limit, _) => {
                let limit = limit.unwrap_or_default();
                (progress.elapsed.as_millis() as u64, limit.as_millis() as u64)
            }
        };
        let bar = self.bar(length);
        bar.set_position(position);
        bar.set_message(message);
    }

    /// How the load is going.
    fn live(&self) -> String {
        let [before, Some(now)] = &self.progress else { return String::new() };
        let before = before.as_ref().filter(|before| before.is_warm_up == now.is_warm_up);
        let (since, had) = before.map_or((Duration::ZERO, 0), |old| (old.elapsed, old.replies));
        let seconds = now.elapsed.saturating_sub(since).as_secs_f64().max(0.001);
        let rate = now.replies.saturating_sub(had) as f64 / seconds;
        let mut line = format!("{:.1} s", now.elapsed.as_secs_f64());
        if now.is_warm_up {
            line += " of warm-up";
        }
        let _ = write!(line, ", {} replies, {rate:.0} messages/s", now.replies);
        if let (Some(median), Some(p99)) = (now.rtt.percentile(50.0), now.rtt.percentile(99.0)) {
            let _ = write!(line, ", median {}, p99 {}", ms(median), ms(p99));
        }
        let _ = write!(line, ", {} errors", now.failures);
        line
    }
}

impl Printer for Text {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Connected(connected) => {
                self.clear();
                self.connected(connected);
            }
            Event::Reply(reply) => self.reply(reply),
            Event::Overdue { seq, .. } => self.wrong(&format!("seq={seq} overdue")),
            Event::Failed { reason, .. } => self.wrong(&format!("failed: {reason}")),
            Event::Reconnected { after, attempts, connected, .. } => {
                let from =
                    connected.local.map(|local| format!(" from {local}")).unwrap_or_default();
                let again = if *attempts == 1 { "attempt" } else { "attempts" };
                self.line(&format!(
                    "connected again{from} after {:.3} s, {attempts} {again}",
                    after.as_secs_f64()
                ));
            }
            Event::Interim(summary) => print(&format!("--- {}, so far\n{summary}", self.target)),
            Event::Connecting(connecting) => self.connecting(*connecting),
            Event::Progress(progress) => self.progress(progress),
            Event::Noticed(oddity) => self.line(&format!("note: {}", flags::oddity(oddity))),
            Event::SizeTried { size, came_back, .. } => self.size_tried(*size, *came_back),
            _ => {}
        }
    }

    fn interim(&mut self) {
        let line = self.live();
        match &self.bar {
            Some(bar) => bar.suspend(|| print(&line)),
            None => print(&line),
        }
    }

    fn summary(&mut self, summary: &Summary) {
        self.clear();
        let target = &self.target;
        print(&match &self.load {
            Some(_) => format!("--- {target}\n{summary:#}"),
            None => format!("--- {target}\n{summary}"),
        });
    }

    fn mtu(&mut self, found: Option<Largest>) {
        self.clear();
        print(&match found {
            Some(Largest { payload, headers: Some(headers) }) => format!(
                "largest payload that comes back unfragmented: {payload} bytes; with {headers} of \
                 headers the MTU is {}{}",
                payload + headers,
                // The limit of UDP itself.
                if payload == MAX_PAYLOAD { " or more" } else { "" }
            ),
            Some(Largest { payload, .. }) => {
                format!("largest payload that comes back unfragmented: {payload} bytes")
            }
            None => "nothing comes back".to_owned(),
        });
    }

    fn arrival(&mut self, arrival: &Arrival) {
        for line in facts::words(arrival) {
            match line {
                facts::Line::Plain(text) => self.line(&text),
                facts::Line::Wrong(text) => self.wrong(&text),
            }
        }
    }

    fn failure(&mut self, _reason: &str) {
        self.clear();
    }
}

impl Text {
    /// The search is shown on standard error: on one line of a terminal, else line by line.
    fn size_tried(&mut self, size: usize, came_back: bool) {
        let outcome = if came_back { "came back" } else { "did not come back" };
        let line = format!("{size} bytes: {outcome}");
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            ProgressBar::new_spinner()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        });
        if bar.is_hidden() {
            let _ = writeln!(io::stderr(), "{line}");
        } else {
            bar.set_message(line);
            bar.tick();
        }
    }

    /// Removes the live line.
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What a load does, on one line.
fn header(load: &LoadOptions, size: usize) -> String {
    let s = |count: usize| if count == 1 { "" } else { "s" };
    let LoadOptions { connections, in_flight, .. } = load;
    let mut line = format!("{connections} connection{}, ", s(*connections));
    let _ = match load.rate {
        Some(rate) => write!(line, "{rate} messages/s over all"),
        None => write!(line, "{in_flight} message{} in flight on each", s(*in_flight)),
    };
    let _ = write!(line, ", {size} bytes a message");
    if let Some(count) = load.count {
        let _ = write!(line, ", {count} in all");
    }
    let time = humantime::format_duration;
    if let Some(limit) = load.time_limit() {
        let _ = write!(line, ", for {}", time(limit));
    }
    if !load.warm_up.is_zero() {
        let _ = write!(line, " behind a warm-up of {}", time(load.warm_up));
    }
    line
}

fn phases(connected: &Connected) -> Vec<String> {
    let phases = [
        ("name", connected.resolve),
        ("connect", connected.connect),
        ("TLS", connected.tls),
        ("HTTP/2", connected.http2),
        ("upgrade", connected.upgrade),
    ];
    let known = phases.into_iter().filter_map(|(name, time)| Some((name, time?)));
    known.map(|(name, time)| format!("{name} {}", ms(time))).collect()
}

fn ms(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}
