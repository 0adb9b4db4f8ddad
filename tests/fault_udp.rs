//! Datagrams that misbehave on purpose, through the command.

mod common;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use common::binary::Running;
use common::log::Log;
use serde_json::Value;

/// The longest that a test waits for a datagram.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many datagrams may be ahead of the last echo. So many small ones fit into every buffer.
const WINDOW: u64 = 64;

/// How long a datagram waits for the next one, to leave behind it.
const HOLD: Duration = Duration::from_millis(100);

fn start(fault: &str, args: &[&str]) -> Running {
    let args = [&["--udp", "127.0.0.1:0", "--log-format", "json", "--fault", fault][..], args];
    Running::start(&args.concat())
}

fn connect(address: SocketAddr) -> UdpSocket {
    let any = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let client = UdpSocket::bind(any).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(address).unwrap();
    client
}

/// The number that an echo holds.
fn receive(client: &UdpSocket) -> u64 {
    let mut number = [0; 8];
    assert_eq!(client.recv(&mut number).expect("an echo"), 8);
    u64::from_be_bytes(number)
}

/// The numbers of the echoes that are there already.
fn drain(client: &UdpSocket) -> Vec<u64> {
    client.set_nonblocking(true).unwrap();
    let mut numbers = Vec::new();
    let mut number = [0; 8];
    loop {
        match client.recv(&mut number) {
            Ok(length) => {
                assert_eq!(length, 8);
                numbers.push(u64::from_be_bytes(number));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return numbers,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The fields of the line about the end of the socket, and what was done to its datagrams.
fn closing(log: &Log) -> (&Value, BTreeMap<String, u64>) {
    let [line] = log.beginning("Socket closed")[..] else { panic!("not one line: {log}") };
    let faults = line["faults"].as_str().expect("faults in the line");
    let done = |part: &str| {
        let (name, times) = part.split_once(' ').expect("a name and a number");
        (name.to_owned(), times.parse().expect("a number"))
    };
    let done =
        if faults == "none" { BTreeMap::new() } else { faults.split(", ").map(done).collect() };
    (line, done)
}

/// What came back of numbered datagrams.
struct Run {
    /// The numbers of the echoes, in their order.
    order: Vec<u64>,
    done: BTreeMap<String, u64>,
    /// The longest time in which [`WINDOW`] datagrams were sent.
    pause: Duration,
}

impl Run {
    /// Sends so many datagrams to a server, and stops it.
    fn of(datagrams: u64, fault: &str, args: &[&str]) -> Run {
        let server = start(fault, args);
        let client = connect(server.address("udp"));
        let (mut order, mut highest) = (Vec::new(), 0);
        let mut times = Vec::new();
        for number in 1..=datagrams {
            while number > highest + WINDOW {
                let echo = receive(&client);
                highest = highest.max(echo);
                order.push(echo);
            }
            times.push(Instant::now());
            client.send(&number.to_be_bytes()).unwrap();
        }
        let log = Log::of(server);
        // The server has sent all that it owed, and over loopback that has arrived.
        order.extend(drain(&client));
        let (line, done) = closing(&log);
        assert_eq!(line["received"], 8 * datagrams);
        assert_eq!(line["messages"], datagrams);
        assert_eq!(line["dropped"], 0);
        assert_eq!(line["sent"], 8 * order.len() as u64, "an echo was lost on the way");
        let spans =
            times.windows(WINDOW as usize).map(|window| window[window.len() - 1] - window[0]);
        let pause = spans.max().unwrap_or_default();
        Run { order, done, pause }
    }

    /// How often each number came back.
    fn times(&self) -> BTreeMap<u64, u64> {
        let mut times = BTreeMap::new();
        for number in &self.order {
            *times.entry(*number).or_default() += 1;
        }
        times
    }
}

/// Asserts that `count` of `of` is within four standard deviations of its mean. `factor` is by how
/// much more than independent ones they vary.
#[track_caller]
fn assert_share(count: u64, of: u64, share: f64, factor: f64, what: &str) {
    let deviation = (of as f64 * share * (1.0 - share) * factor).sqrt();
    let far = (count as f64 - of as f64 * share).abs();
    assert!(far <= 4.0 * deviation, "{what}: {count} of {of}, {far} from the mean");
}

#[test]
fn the_same_seed_gives_the_same_echoes_whatever_the_threads() {
    const DATAGRAMS: u64 = 10_000;
    const FAULT: &str = "udp:drop=10%,burst=5%,duplicate=5%,reorder=5%";
    let run = |seed: &str, threads: &str| {
        let args = ["--fault-seed", seed, "--threads", threads];
        // A datagram does not wait for the next one for ever. If this machine did not let us send the
        // next ones in time, the order may be another.
        let mut tries = std::iter::repeat_with(|| Run::of(DATAGRAMS, FAULT, &args)).take(20);
        tries.find(|run| run.pause < HOLD).expect("the machine is not always too busy")
    };
    let first = run("7", "1");
    let done = |name: &str| first.done[name];
    assert_share(done("drop"), DATAGRAMS, 0.1, 1.0, "drop");
    // Of a burst, those that drop takes anyway count as dropped. Its datagrams come together: they
    // vary by (1 + c) / (1 - c), where c is 1 - 1/4 - 1/4 · 5/95.
    assert_share(done("burst"), DATAGRAMS, 0.05 * 0.9, 6.6, "burst");
    let echoed = DATAGRAMS - done("drop") - done("burst");
    assert_share(done("duplicate"), echoed, 0.05, 1.0, "duplicate");
    assert_share(done("reorder"), echoed, 0.05, 1.0, "reorder");
    let times = first.times();
    assert_eq!(times.len() as u64, echoed);
    assert_eq!(times.values().filter(|times| **times == 2).count() as u64, done("duplicate"));
    assert!(times.values().all(|times| *times <= 2));
    // An echo that comes behind a later one was overtaken.
    let mut highest = 0;
    let mut late: Vec<_> = first
        .order
        .iter()
        .filter(|number| {
            highest = highest.max(**number);
            **number < highest
        })
        .collect();
    late.dedup();
    assert_eq!(late.len() as u64, done("reorder"));
    for threads in ["1", "2"] {
        let again = run("7", threads);
        assert!(again.order == first.order, "{threads} threads");
        assert_eq!(again.done, first.done);
    }
    assert_ne!(run("8", "1").times(), times);
}

#[test]
fn a_delay_takes_no_bandwidth() {
    const DELAY: Duration = Duration::from_millis(50);
    let server = start("udp:delay=50ms", &[]);
    let client = connect(server.address("udp"));
    let mut sent = Vec::new();
    for number in 0..100_u64 {
        sent.push(Instant::now());
        client.send(&number.to_be_bytes()).unwrap();
    }
    for number in 0..100 {
        assert_eq!(receive(&client), number);
        assert!(sent[number as usize].elapsed() >= DELAY, "{number} was early");
    }
    let log = Log::of(server);
    assert_eq!(closing(&log).1, BTreeMap::from([("delay".to_owned(), 100)]));
}

#[test]
fn a_rate_spreads_datagrams() {
    let server = start("udp:rate=8000", &[]);
    let client = connect(server.address("udp"));
    let start = Instant::now();
    for number in 0..=200_u64 {
        client.send(&number.to_be_bytes()).unwrap();
    }
    (0..=200).for_each(|number| assert_eq!(receive(&client), number));
    assert!(start.elapsed() >= Duration::from_millis(200));
    // Ten seconds of traffic at once do not wait for ten seconds.
    for _ in 0..10 {
        client.send(&[0; 8000]).unwrap();
    }
    let log = Log::of(server);
    let lost = closing(&log).1["rate"];
    assert!((8..10).contains(&lost), "{lost} of 10");
}

#[test]
fn a_drain_sends_what_waits() {
    let server = start("udp:delay=1h,jitter=1h", &[]);
    let client = connect(server.address("udp"));
    for number in 0..WINDOW {
        client.send(&number.to_be_bytes()).unwrap();
    }
    let log = Log::of(server);
    let mut numbers = drain(&client);
    assert!(!numbers.is_sorted(), "in the order of their times: {numbers:?}");
    numbers.sort();
    assert_eq!(numbers, (0..WINDOW).collect::<Vec<_>>());
    assert_eq!(closing(&log).0["sent"], 8 * WINDOW);
}

#[test]
fn a_share_of_flows_misbehaves_and_the_others_do_not() {
    const FLOWS: u64 = 200;
    let server = start("udp:corrupt=100%,share=25%", &["--fault-seed", "3"]);
    let address = server.address("udp");
    let mut corrupt = 0;
    for number in 0..FLOWS {
        let client = connect(address);
        let echoes: Vec<_> = (0..3)
            .map(|_| {
                client.send(&number.to_be_bytes()).unwrap();
                (receive(&client) ^ number).count_ones()
            })
            .collect();
        match echoes[..] {
            [0, 0, 0] => {}
            [1, 1, 1] => corrupt += 1,
            _ => panic!("flow {number} has {echoes:?} bits flipped"),
        }
    }
    assert_share(corrupt, FLOWS, 0.25, 1.0, "flows");
    assert_eq!(closing(&Log::of(server)).1["corrupt"], 3 * corrupt);
}

#[test]
fn an_empty_datagram_and_the_largest_one_come_back_late() {
    let server = start("udp:delay=10ms,corrupt=100%", &[]);
    let client = connect(server.address("udp"));
    let mut buffer = vec![0; 65_536];
    for size in [0, 1, 65_507] {
        client.send(&vec![0; size]).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(length, size);
        let flipped: u32 = buffer[..length].iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(flipped, u32::from(size > 0));
    }
}

/// Only Linux tells where a datagram was sent to.
#[cfg(target_os = "linux")]
#[test]
fn a_late_echo_leaves_from_the_address_that_was_asked() {
    for (bound, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "127.0.0.7"), ("[::]:0", "::1")] {
        let fault = ["--fault", "udp:delay=5ms,duplicate=100%"];
        let server = Running::start(&[&["--udp", bound][..], &fault].concat());
        let address = SocketAddr::new(asked.parse().unwrap(), server.address("udp").port());
        // The client is connected, so that the kernel gives it nothing from elsewhere.
        let client = connect(address);
        client.send(&7_u64.to_be_bytes()).unwrap();
        assert_eq!((receive(&client), receive(&client)), (7, 7), "{asked} of {bound}");
    }
}

#[test]
fn facts_are_late_too() {
    let server = start("udp:delay=5ms", &["--facts", "udp"]);
    let client = connect(server.address("udp"));
    let mut question = vec![0; 400];
    question[..11].copy_from_slice(b"ECHO-FACTS?");
    client.send(&question).unwrap();
    let mut facts = [0; 1000];
    let length = client.recv(&mut facts).unwrap();
    assert!(facts[..length].starts_with(br#"{"echo_facts":1,"protocol":"udp","#));
    assert_eq!(closing(&Log::of(server)).1["delay"], 1);
}

#[test]
fn a_server_whose_faults_are_elsewhere_says_nothing_of_datagrams() {
    let server = start("tcp:delay=1s", &["--tcp", "127.0.0.1:0"]);
    let client = connect(server.address("udp"));
    client.send(&1_u64.to_be_bytes()).unwrap();
    assert_eq!(receive(&client), 1);
    let log = Log::of(server);
    let [line] = log.beginning("Socket closed")[..] else { panic!("not one line: {log}") };
    assert!(line.get("faults").is_none(), "{line}");
}
