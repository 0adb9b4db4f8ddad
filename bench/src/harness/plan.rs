//! Which servers are asked which questions.

use std::fmt;

use echo_server::Protocol;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::args::{Args, Section};
use super::sample::{Metric, Trouble};
use super::servers::Which;
use super::trains;
use crate::controls::Control;

/// One question, and the servers that it is put to.
pub struct Case {
    pub name: String,
    /// The same, shorter.
    pub label: String,
    pub protocol: Protocol,
    pub work: Work,
    /// The server that is compared with the others.
    pub subject: Which,
    /// The others.
    pub rivals: Vec<Which>,
    /// The metrics that have ratios.
    pub compared: &'static [Metric],
}

pub enum Work {
    Traffic(Load),
    /// Trains of datagrams.
    Trains,
    Churn,
    /// This many idle connections.
    Idle(usize),
    Start,
}

/// What the probe is told to do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub size: usize,
    pub connections: usize,
    pub in_flight: usize,
    pub is_text: bool,
    /// Messages a second, whatever comes back. With `None`, a reply triggers the next message.
    pub rate: Option<f64>,
}

impl Load {
    /// Connections × messages in flight on each, or a second.
    fn label(&self) -> String {
        let Load { connections, in_flight, is_text, rate, .. } = self;
        let (size, kind) = (self.shown_size(), if *is_text { " text" } else { "" });
        match rate {
            Some(rate) => format!("{size}{kind}, {:.0}k/s", rate / 1e3),
            None => format!("{size}{kind}, {connections} × {in_flight}"),
        }
    }

    fn shown_size(&self) -> String {
        match self.size {
            size @ 1024.. if size.is_multiple_of(1024) => format!("{} KiB", size / 1024),
            size => format!("{size} B"),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { connections, in_flight, is_text, rate, .. } = self;
        f.write_str(&self.shown_size())?;
        let kind = if *is_text { " of text" } else { "" };
        if let Some(rate) = rate {
            return write!(f, "{kind}, {connections} connections, {rate} a second");
        }
        match connections {
            1 => write!(f, "{kind}, 1 connection, {in_flight} in flight"),
            _ => write!(f, "{kind}, {connections} connections, {in_flight} in flight on each"),
        }
    }
}

const fn load(size: usize, connections: usize, in_flight: usize) -> Load {
    Load { size, connections, in_flight, is_text: false, rate: None }
}

const fn text(size: usize, connections: usize, in_flight: usize) -> Load {
    Load { is_text: true, ..load(size, connections, in_flight) }
}

const fn paced(size: usize, connections: usize, rate: f64) -> Load {
    Load { rate: Some(rate), ..load(size, connections, 1) }
}

const STREAMS: [Load; 5] = [
    load(64, 50, 1),
    load(64, 50, 16),
    load(16 * 1024, 4, 4),
    load(256 * 1024, 1, 1),
    load(64, 1000, 1),
];

const MESSAGES: [Load; 5] = [
    load(64, 50, 1),
    text(64, 50, 1),
    load(64, 50, 16),
    load(16 * 1024, 4, 4),
    text(16 * 1024, 4, 4),
];

/// The CPU time of an echo depends on how many arrive at a time, and a WebSocket client spends more
/// time on each than a TCP client. At a fixed rate the two can be compared.
const AT_ONE_RATE: [Load; 2] = [paced(64, 50, 50_000.0), paced(64, 50, 500_000.0)];

/// Few and many connections, with one message in flight and with several.
const OF_URING: [Load; 12] = [
    load(64, 1, 1),
    load(64, 1, 16),
    load(64, 50, 1),
    load(64, 50, 16),
    load(64, 1000, 1),
    load(64, 1000, 16),
    load(16 * 1024, 1, 1),
    load(16 * 1024, 1, 16),
    load(16 * 1024, 50, 1),
    load(16 * 1024, 50, 16),
    load(16 * 1024, 1000, 1),
    load(16 * 1024, 1000, 16),
];

const SECURE_MESSAGES: [Load; 2] = [load(64, 50, 1), load(16 * 1024, 4, 4)];

const DATAGRAMS: [Load; 2] = [load(64, 50, 1), load(1200, 8, 16)];

/// The most connections in a smoke run.
const FEW: usize = 8;

/// The cases that `args` ask for, without the servers that cannot be had here. Raises the limit on
/// descriptors as needed, or else reduces the number of idle connections.
pub fn cases(args: &mut Args) -> Result<Vec<Case>, Trouble> {
    if args.sections.is_empty() {
        args.sections = Section::every().collect();
    }
    let sections = args.sections.clone();
    let most = raise_descriptors(if sections.contains(&Section::Idle) { args.idle } else { 0 });
    if most < args.idle && sections.contains(&Section::Idle) {
        println!("{} idle connections exceed the descriptor limit; using {most}", args.idle);
        args.idle = most;
    }
    let args = &*args;
    let cases = sections.into_iter().flat_map(|section| of_section(section, args));
    let is_asked = |case: &Case| args.only.as_ref().is_none_or(|only| case.name.contains(only));
    let mut cases: Vec<Case> = cases.filter(is_asked).collect();
    for control in [Control::Uring, Control::OpenSsl] {
        leave_out_unless_ready(control, &mut cases)?;
    }
    Ok(cases)
}

/// A tool that tests want is missing, and is required.
const REQUIRED: &str = "REQUIRE_TEST_TOOLS";

/// Makes `control` ready, or takes it out of the cases and says so. OpenSSL is a tool that can be
/// installed, so it may be required; whether io_uring may be used is for others to say.
fn leave_out_unless_ready(control: Control, cases: &mut Vec<Case>) -> Result<(), Trouble> {
    let which = Which::Control(control);
    if !cases.iter().any(|case| case.subject == which || case.rivals.contains(&which)) {
        return Ok(());
    }
    let Err(why) = control.prepare() else { return Ok(()) };
    let is_required = std::env::var_os(REQUIRED).is_some_and(|value| value == "1");
    if control == Control::OpenSsl && is_required {
        return Err(format!("{}: {why}; {REQUIRED} is 1", control.name()));
    }
    println!("{} is left out: {why}", control.name());
    cases.retain(|case| case.subject != which);
    for case in cases {
        case.rivals.retain(|rival| *rival != which);
    }
    Ok(())
}

fn of_section(section: Section, args: &Args) -> Vec<Case> {
    use Protocol::{Tcp, Tls, Udp, Ws, Wss};
    let traffic = |protocol: Protocol, loads: &[Load]| -> Vec<Case> {
        let case = |load: &Load| {
            let connections =
                if args.is_smoke { load.connections.min(FEW) } else { load.connections };
            let load = Load { connections, ..*load };
            let name = format!("{}, {load}", title(protocol));
            let label = format!("{} {}", short(protocol), load.label());
            let compared = &[Metric::Cpu, Metric::Rate];
            Case { name, label, compared, ..case(protocol, Work::Traffic(load), args) }
        };
        // A smoke run has to be short.
        loads.iter().step_by(if args.is_smoke { 2 } else { 1 }).map(case).collect()
    };
    let each = |protocols: &[Protocol], work: fn(&Args) -> Work, what: [&str; 2], compared| {
        let named = |protocol: &Protocol| {
            let name = format!("{}, {}", title(*protocol), what[0]);
            let label = format!("{} {}", short(*protocol), what[1]);
            Case { name, label, compared, ..case(*protocol, work(args), args) }
        };
        protocols.iter().map(named).collect()
    };
    match section {
        Section::Tcp => traffic(Tcp, &STREAMS),
        Section::Tls => traffic(Tls, &STREAMS),
        Section::Ws => {
            let mut cases = traffic(Ws, &MESSAGES);
            for mut case in traffic(Ws, &AT_ONE_RATE) {
                case.rivals.retain(|rival| !matches!(rival, Which::Control(_)));
                case.compared = &[Metric::Cpu];
                cases.push(case);
            }
            cases.extend(traffic(Wss, &SECURE_MESSAGES));
            cases
        }
        Section::Udp => {
            let compared = &[Metric::Cpu, Metric::Rate];
            let mut cases = traffic(Udp, &DATAGRAMS);
            cases.extend(each(
                &[Udp],
                |_| Work::Trains,
                [trains::NAME, "1200 B, trains"],
                compared,
            ));
            cases
        }
        Section::Churn => {
            let compared = &[Metric::Cpu, Metric::Rate];
            let what = ["connect, echo 64 B, close", "connection"];
            each(&[Tcp, Tls, Ws], |_| Work::Churn, what, compared)
        }
        Section::Idle => {
            let what = format!("{} idle connections", args.idle);
            let compared = &[Metric::Resident];
            each(&[Tcp, Tls, Ws, Wss], |args| Work::Idle(args.idle), [&what, "idle"], compared)
        }
        Section::Start => each(&[Tcp], |_| Work::Start, ["start"; 2], &[Metric::Start]),
        Section::Uring => {
            let mut cases = traffic(Tcp, &OF_URING);
            for case in &mut cases {
                case.subject = Which::Control(Control::Uring);
                case.rivals = vec![Which::Control(Control::Epoll), Which::Ours];
            }
            cases
        }
        // Their tables have no ratios.
        Section::Fairness | Section::Probe => Vec::new(),
    }
}

fn case(protocol: Protocol, work: Work, args: &Args) -> Case {
    let controls: &[Control] = match protocol {
        Protocol::Tcp => &[Control::Classic, Control::Epoll, Control::Uring],
        Protocol::Tls => &[Control::Rustls, Control::OpenSsl],
        Protocol::Udp => &[Control::Datagrams, Control::Mmsg],
        Protocol::Ws => &[Control::Tungstenite, Control::TungsteniteTuned],
        _ => &[],
    };
    let builds = args.builds.iter().map(|(name, path)| Which::Build(name.clone(), path.clone()));
    let carrier = match protocol {
        Protocol::Ws => Some(Which::OursOver(Protocol::Tcp)),
        Protocol::Wss => Some(Which::OursOver(Protocol::Tls)),
        _ => None,
    };
    // WebSocket is compared with the protocol that carries it.
    let carrier = carrier.filter(|_| matches!(work, Work::Traffic(_)));
    let controls = controls.iter().copied().map(Which::Control);
    let rivals = builds.chain(carrier).chain(controls).collect();
    let (name, label) = (String::new(), String::new());
    Case { name, label, protocol, work, subject: Which::Ours, rivals, compared: &[] }
}

fn short(protocol: Protocol) -> String {
    protocol.name().to_uppercase()
}

fn title(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Tls => "TLS",
        Protocol::Udp => "UDP",
        Protocol::Ws => "WebSocket",
        Protocol::Wss => "WebSocket over TLS",
        other => other.name(),
    }
}

/// Raises the limit on descriptors, which the servers inherit, to what `connections` need. Returns
/// how many connections there can be: our server takes nine tenths of the limit for them.
pub fn raise_descriptors(connections: usize) -> usize {
    let wanted = (connections as u64 + 1000) * 10 / 9;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let is_enough = maximum.is_none_or(|maximum| maximum >= wanted);
    let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
    if is_enough || setrlimit(Resource::Nofile, raised).is_err() {
        // If this fails, the current limit is used.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from((limit / 10 * 9).saturating_sub(100)).unwrap_or(usize::MAX)
}
