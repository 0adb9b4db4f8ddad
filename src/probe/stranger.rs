//! What an echo service does beside echoing, told from what has come first: a greeting, something
//! added to each reply, lines in place of bytes, another protocol.

use std::fmt;

use super::payload::Payloads;
use super::{Ending, Target};
use crate::config::Protocol;

/// How many messages are looked for.
const LOOKED_FOR: usize = 3;

/// What is kept beyond these messages.
const BESIDE: usize = 4096;

/// The most that is kept. Of messages that are larger, nothing is told.
const MOST: usize = 256 * 1024;

/// How much of what was received an [`Oddity`] quotes.
const QUOTED: usize = 32;

/// What a service does that an echo service does not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oddity {
    /// It sends something by itself before the first echo.
    #[non_exhaustive]
    Greets {
        /// How much: bytes of a stream, or messages. See
        /// [`ConnectOptions::skip_first`](super::ConnectOptions::skip_first).
        amount: u64,
        /// Whether that is in bytes.
        in_bytes: bool,
        /// The beginning of it.
        quoted: Vec<u8>,
    },
    /// It sends facts about the connection before the first echo. [`Probe::facts`](super::Probe::facts)
    /// asks for them.
    #[non_exhaustive]
    SendsFacts {
        /// How much: bytes of a stream, or messages. `None` if it is not known.
        amount: Option<u64>,
        /// Whether that is in bytes.
        in_bytes: bool,
    },
    /// It sends back the PROXY header: it does not expect one.
    EchoesProxyHeader,
    /// Each reply has more than the message that it answers.
    #[non_exhaustive]
    Adds {
        /// How many bytes are before the message.
        before: usize,
        /// How many are behind it.
        behind: usize,
        /// The beginning of what is before it or, if there is nothing, behind it.
        quoted: Vec<u8>,
    },
    /// It sends back several messages as one: their boundaries are lost.
    Joins,
    /// It answers nothing before it is sent a newline. See
    /// [`Messages::line_ending`](super::Messages::line_ending).
    AnswersLines,
    /// It ends its lines with CR LF, whatever the lines end with that it is sent.
    EndsLinesWithCrLf,
    /// It closes the connection after so many replies.
    #[non_exhaustive]
    ClosesAfter {
        /// How many.
        replies: u64,
    },
    /// It has gone silent, and has not closed the connection.
    #[non_exhaustive]
    Stalls {
        /// After how much.
        how: Ending,
    },
    /// It does not echo, but speaks another protocol.
    #[non_exhaustive]
    Speaks {
        /// Its name.
        name: &'static str,
        /// What may work instead.
        instead: Target,
    },
    /// It answers, but not with what it was sent.
    #[non_exhaustive]
    DoesNotEcho {
        /// The beginning of the answer.
        quoted: Vec<u8>,
    },
}

/// The beginning of what was received, as it came.
#[derive(Debug)]
pub(super) struct Transcript {
    bytes: Vec<u8>,
    /// Where each message ends. Empty for a stream.
    ends: Vec<usize>,
    room: usize,
    is_stream: bool,
    /// The PROXY header that was sent. Empty: none was.
    header: Vec<u8>,
}

impl Transcript {
    pub(super) fn new(size: usize, is_stream: bool) -> Self {
        let room = size.saturating_add(BESIDE / 2).saturating_mul(LOOKED_FOR);
        let room = if room <= MOST { room } else { 0 };
        Transcript { bytes: Vec::new(), ends: Vec::new(), room, is_stream, header: Vec::new() }
    }

    /// Behind a PROXY header, which may come back as well.
    pub(super) fn behind(mut self, header: Vec<u8>) -> Self {
        self.room = if self.room == 0 { 0 } else { self.room + header.len() };
        self.header = header;
        self
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let left = self.room - self.bytes.len();
        if self.is_stream {
            self.bytes.extend_from_slice(&bytes[..bytes.len().min(left)]);
        } else if bytes.len() <= left && self.ends.len() < 100 {
            self.bytes.extend_from_slice(bytes);
            self.ends.push(self.bytes.len());
        } else {
            // Messages have to be without a gap.
            self.room = self.bytes.len();
        }
    }

    /// What is odd about replies to `sent` messages of which some differ from what was sent, or were
    /// not complete.
    pub(super) fn oddity(&self, target: &Target, payloads: &Payloads, sent: u64) -> Option<Oddity> {
        if self.bytes.is_empty() {
            return None;
        }
        if !self.header.is_empty() && self.bytes.starts_with(&self.header) {
            return Some(Oddity::EchoesProxyHeader);
        }
        if let Some(oddity) = self.other_protocol(target).or_else(|| self.sends_facts(target)) {
            return Some(oddity);
        }
        match self.is_stream {
            true if self.are_lines(payloads, sent) => Some(Oddity::AnswersLines),
            true => self.of_stream(payloads),
            false => self.of_messages(payloads),
        }
    }

    fn other_protocol(&self, target: &Target) -> Option<Oddity> {
        let is_over_tls = target.protocol().is_over_tls();
        let (name, protocol) = match (&self.bytes[..], target.protocol()) {
            (bytes, Protocol::Tcp | Protocol::Tls) if bytes.starts_with(b"HTTP/") => {
                ("HTTP", if is_over_tls { Protocol::Wss } else { Protocol::Ws })
            }
            // An alert (RFC 8446 section 6).
            ([0x15, 3, _, 0, 2, 1 | 2, ..], Protocol::Tcp) => ("TLS", Protocol::Tls),
            _ => return None,
        };
        Some(Oddity::Speaks { name, instead: target.over(protocol) })
    }

    /// A line of JSON on a stream, or a text message, with the version that all facts have.
    fn sends_facts(&self, target: &Target) -> Option<Oddity> {
        if target.protocol() == Protocol::Udp {
            return None;
        }
        let line = match self.is_stream {
            true => self.bytes.split(|byte| *byte == b'\n').next()?,
            false => &self.bytes[..*self.ends.first()?],
        };
        if !line.starts_with(b"{") || find(line, b"\"echo_facts\":").is_none() {
            return None;
        }
        let amount = match self.is_stream {
            true if line.len() < self.bytes.len() => Some(line.len() as u64 + 1),
            true => None,
            false => Some(1),
        };
        Some(Oddity::SendsFacts { amount, in_bytes: self.is_stream })
    }

    fn of_stream(&self, payloads: &Payloads) -> Option<Oddity> {
        let bytes = &self.bytes[..];
        let first = payloads.message(0);
        let Some(at) = find(bytes, &first) else {
            return self.of_lines(payloads).or_else(|| self.does_not_echo(&first));
        };
        let rest = &bytes[at + first.len()..];
        let before = &bytes[..at];
        match find(rest, &payloads.message(1)) {
            // What comes first is not repeated.
            Some(0) => greets(before.len(), before),
            Some(between) if before.len() == between && before == &rest[..between] => {
                Some(Oddity::Adds { before: between, behind: 0, quoted: quote(before) })
            }
            Some(between) if before.is_empty() => {
                Some(Oddity::Adds { before: 0, behind: between, quoted: quote(&rest[..between]) })
            }
            // Both: skipping the greeting shows what each reply has.
            Some(_) => greets(before.len(), before),
            None if !before.is_empty() => greets(before.len(), before),
            None if !rest.is_empty() => {
                Some(Oddity::Adds { before: 0, behind: rest.len(), quoted: quote(rest) })
            }
            None => None,
        }
    }

    /// Lines that have come back with another ending.
    fn of_lines(&self, payloads: &Payloads) -> Option<Oddity> {
        let first = payloads.message(0);
        let content = first.strip_suffix(b"\n").filter(|line| !line.ends_with(b"\r"))?;
        let at = find(&self.bytes, content)?;
        let behind = &self.bytes[at + content.len()..];
        behind.starts_with(b"\r\n").then_some(Oddity::EndsLinesWithCrLf)
    }

    /// Whether as many lines have come as there are newlines in the messages, and nothing of the
    /// bytes behind the last one.
    fn are_lines(&self, payloads: &Payloads, sent: u64) -> bool {
        let is_whole = self.bytes.len() < self.room && sent <= 100;
        if !is_whole || !self.bytes.ends_with(b"\n") {
            return false;
        }
        let newlines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        let messages: Vec<u8> = (0..sent).flat_map(|seq| payloads.message(seq)).collect();
        // A shell's `read` drops NUL, and more.
        let mut rest = messages.iter();
        let is_part = self
            .bytes
            .iter()
            .filter(|byte| **byte != b'\r')
            .all(|byte| rest.any(|one| one == byte));
        is_part && !messages.ends_with(b"\n") && newlines(&messages) == newlines(&self.bytes)
    }

    fn does_not_echo(&self, first: &[u8]) -> Option<Oddity> {
        let is_beginning = first.starts_with(&self.bytes);
        // The rest of it may have been lost, or a few bytes of it have changed.
        let same = self.bytes.iter().zip(first).filter(|(one, other)| one == other).count();
        let is_similar = same * 2 > self.bytes.len().min(first.len());
        (!is_beginning && !is_similar).then(|| Oddity::DoesNotEcho { quoted: quote(&self.bytes) })
    }

    fn of_messages(&self, payloads: &Payloads) -> Option<Oddity> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let all: Vec<&[u8]> =
            starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end]).collect();
        let sent: Vec<_> = (0..LOOKED_FOR as u64).map(|seq| payloads.message(seq)).collect();
        let is_sent = |bytes: &[u8]| sent.iter().any(|message| message == bytes);
        // A reply that was lost may be missing, so any message will do.
        if let Some(at) = all.iter().position(|message| is_sent(message)) {
            return greets(at, all[0]).map(|greeting| match greeting {
                Oddity::Greets { quoted, .. } => {
                    Oddity::Greets { amount: at as u64, in_bytes: false, quoted }
                }
                other => other,
            });
        }
        for message in &all {
            for part in &sent {
                if let Some(before) = find(message, part) {
                    let is_other =
                        |other: &&Vec<u8>| *other != part && find(message, other).is_some();
                    if sent.iter().any(|other| is_other(&other)) {
                        return Some(Oddity::Joins);
                    }
                    let behind = message.len() - before - part.len();
                    let quoted = match before {
                        0 => quote(&message[part.len()..]),
                        _ => quote(&message[..before]),
                    };
                    return Some(Oddity::Adds { before, behind, quoted });
                }
            }
        }
        let (same, of) = all[0]
            .iter()
            .zip(&sent[0])
            .fold((0, 0), |(same, of), (one, other)| (same + usize::from(one == other), of + 1));
        (same * 2 <= of && !all[0].is_empty())
            .then(|| Oddity::DoesNotEcho { quoted: quote(all[0]) })
    }
}

fn greets(amount: usize, greeting: &[u8]) -> Option<Oddity> {
    (amount > 0).then(|| Oddity::Greets {
        amount: amount as u64,
        in_bytes: true,
        quoted: quote(greeting),
    })
}

pub(super) fn quote(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len().min(QUOTED)].to_vec()
}

/// Where `part`, which is not empty, begins in `whole`.
fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return None;
    }
    whole.windows(part.len()).position(|window| window == part)
}

/// One line.
impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::Greets { amount, in_bytes, quoted } => {
                let what = if *in_bytes { "byte" } else { "message" };
                write!(
                    f,
                    "it sends {} before the first echo: {}",
                    Count(*amount, what),
                    Bytes(quoted)
                )
            }
            Oddity::SendsFacts { amount: Some(amount), in_bytes } => {
                let what = if *in_bytes { "byte" } else { "message" };
                write!(f, "it sends facts first, which are {}", Count(*amount, what))
            }
            Oddity::SendsFacts { amount: None, .. } => f.write_str("it sends facts first"),
            Oddity::EchoesProxyHeader => {
                f.write_str("it echoes the PROXY header: it does not expect one")
            }
            Oddity::Adds { before, behind, quoted } => {
                let more = Count((before + behind) as u64, "byte");
                write!(f, "each reply has {more} more than its message")?;
                match (before, behind) {
                    (_, 0) => write!(f, ", before it: {}", Bytes(quoted)),
                    (0, _) => write!(f, ", behind it: {}", Bytes(quoted)),
                    _ => write!(f, ", before and behind it: {}", Bytes(quoted)),
                }
            }
            Oddity::Joins => f.write_str("it sends back several messages as one"),
            Oddity::AnswersLines => f.write_str("it answers after a newline only"),
            Oddity::EndsLinesWithCrLf => f.write_str("it ends its lines with CR LF"),
            Oddity::ClosesAfter { replies } => {
                let replies = Count(*replies, "message");
                write!(f, "it closes the connection after {replies}")
            }
            Oddity::Stalls { how } => write!(f, "it {how}"),
            Oddity::Speaks { name, instead } => {
                write!(f, "it does not echo, but speaks {name}: perhaps {instead}")
            }
            Oddity::DoesNotEcho { quoted } => {
                write!(f, "it does not echo: it answered {}", Bytes(quoted))
            }
        }
    }
}

struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(count, what) = self;
        write!(f, "{count} {what}{}", if *count == 1 { "" } else { "s" })
    }
}

/// The first line as text if it is, else bytes in hexadecimal.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(bytes) = self;
        let line = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(bytes);
        if !line.is_empty() && line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return write!(f, "\"{}\"", String::from_utf8_lossy(line));
        }
        for (at, byte) in bytes.iter().take(8).enumerate() {
            write!(f, "{}{byte:02x}", if at > 0 { " " } else { "" })?;
        }
        if bytes.len() > 8 { f.write_str(" …") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{LineEnding, Messages};

    fn told(url: &str, payloads: &Payloads, received: &[&[u8]]) -> Option<String> {
        let target: Target = url.parse().unwrap();
        let is_stream = url.starts_with("t");
        let mut transcript = Transcript::new(payloads.size(), is_stream);
        received.iter().for_each(|bytes| transcript.push(bytes));
        transcript.oddity(&target, payloads, received.len() as u64).map(|oddity| oddity.to_string())
    }

    #[test]
    fn what_a_stream_service_does_beside_echoing_is_told() {
        let payloads = Payloads::new(&Messages::new());
        let (first, second) = (&*payloads.message(0), &*payloads.message(1));
        let tcp = |received: &[&[u8]]| told("tcp://localhost:1", &payloads, received);
        assert_eq!(tcp(&[first, second]), None);
        assert_eq!(tcp(&[]), None);
        assert_eq!(tcp(&[&first[..20]]), None);
        let mut damaged = first.to_vec();
        damaged[9] ^= 1;
        assert_eq!(tcp(&[&damaged, second]), None);
        for (received, said) in [
            (
                &[b"Request served by x\n", first, second][..],
                "it sends 20 bytes before the first echo: \"Request served by x\"",
            ),
            (&[b"?", first], "it sends 1 byte before the first echo: \"?\""),
            (
                &[b"> ", first, b"> ", second],
                "each reply has 2 bytes more than its message, before it: \"> \"",
            ),
            (
                &[first, b"\r\n", second],
                "each reply has 2 bytes more than its message, behind it: 0d 0a",
            ),
            (&[first, b"!"], "each reply has 1 byte more than its message, behind it: \"!\""),
            (
                &[b"220 mail.test ESMTP\r\n"],
                "it does not echo: it answered \"220 mail.test ESMTP\"",
            ),
            (
                &[b"HTTP/1.1 400 Bad Request\r\n"],
                "it does not echo, but speaks HTTP: perhaps ws://localhost:1",
            ),
            (
                &[&[0x15, 3, 1, 0, 2, 2, 22]],
                "it does not echo, but speaks TLS: perhaps tls://localhost:1",
            ),
        ] {
            assert_eq!(tcp(received).as_deref(), Some(said));
        }
    }

    #[test]
    fn what_a_service_of_messages_does_beside_echoing_is_told() {
        let payloads = Payloads::new(&Messages::new());
        let (first, second) = (&*payloads.message(0), &*payloads.message(1));
        let longer = [b"You said: ", first].concat();
        let both = [b"<", first, b">"].concat();
        for (received, said) in [
            (&[first, second][..], None),
            (&[second], None),
            (
                &[b"Request served by x", first],
                Some("it sends 1 message before the first echo: \"Request served by x\""),
            ),
            (
                &[&longer],
                Some("each reply has 10 bytes more than its message, before it: \"You said: \""),
            ),
            (
                &[&both],
                Some("each reply has 2 bytes more than its message, before and behind it: \"<\""),
            ),
            (&[&[first, second].concat()], Some("it sends back several messages as one")),
            (&[b"no"], Some("it does not echo: it answered \"no\"")),
        ] {
            assert_eq!(told("ws://localhost:1", &payloads, received).as_deref(), said);
        }
    }

    #[test]
    fn facts_that_come_first_are_told() {
        let payloads = Payloads::new(&Messages::new());
        let first = &*payloads.message(0);
        let facts = &b"{\"protocol\":\"tcp\",\"echo_facts\":1}"[..];
        let oddity = |url: &str, received: &[&[u8]]| {
            let mut transcript = Transcript::new(64, url.starts_with("t"));
            received.iter().for_each(|bytes| transcript.push(bytes));
            transcript.oddity(&url.parse().unwrap(), &payloads, 1)
        };
        let line = [facts, b"\n"].concat();
        assert_eq!(
            oddity("tcp://localhost:1", &[&line, first]),
            Some(Oddity::SendsFacts { amount: Some(34), in_bytes: true })
        );
        assert_eq!(
            oddity("tls://localhost:1", &[facts]),
            Some(Oddity::SendsFacts { amount: None, in_bytes: true })
        );
        assert_eq!(
            oddity("ws://localhost:1", &[facts, first]),
            Some(Oddity::SendsFacts { amount: Some(1), in_bytes: false })
        );
        for (url, received) in [("udp://localhost:1", facts), ("tcp://localhost:1", b"{\"a\":1}\n")]
        {
            let other = oddity(url, &[received]);
            assert!(!matches!(other, Some(Oddity::SendsFacts { .. })), "{url}: {other:?}");
        }
    }

    #[test]
    fn a_proxy_header_that_comes_back_is_told() {
        let payloads = Payloads::new(&Messages::new());
        let first = &*payloads.message(0);
        let header = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n";
        let oddity = |header: &[u8], received: &[&[u8]]| {
            let mut transcript = Transcript::new(64, true).behind(header.to_vec());
            received.iter().for_each(|bytes| transcript.push(bytes));
            transcript.oddity(&"tcp://localhost:1".parse().unwrap(), &payloads, 1)
        };
        assert_eq!(oddity(header, &[header, first]), Some(Oddity::EchoesProxyHeader));
        let greeting = oddity(b"", &[header, first]);
        assert!(matches!(greeting, Some(Oddity::Greets { amount: 36, .. })), "{greeting:?}");
        let other = oddity(header, &[&header[1..], first]);
        assert!(matches!(other, Some(Oddity::Greets { amount: 35, .. })), "{other:?}");
    }

    #[test]
    fn lines_are_told_by_their_endings() {
        let payloads = Payloads::new(&Messages::new().lines(LineEnding::Lf));
        let first = payloads.message(0);
        let with_cr = [&first[..63], b"\r\n"].concat();
        let told = |received: &[u8]| told("tcp://localhost:1", &payloads, &[received]);
        assert_eq!(told(&first), None);
        assert_eq!(told(&with_cr).as_deref(), Some("it ends its lines with CR LF"));
    }

    #[test]
    fn a_service_of_lines_is_known_by_where_its_answers_end() {
        let target: Target = "tcp://localhost:1".parse().unwrap();
        // Some of so many random messages contain newlines.
        let payloads = Payloads::new(&Messages::new().size(256));
        let all: Vec<u8> = (0..10).flat_map(|seq| payloads.message(seq)).collect();
        let last = all.iter().rposition(|byte| *byte == b'\n').expect("a newline in 2,560 bytes");
        let mut transcript = Transcript::new(256, true);
        // Without NUL, as a shell's `read` gives it back.
        let answer: Vec<u8> = all[..=last].iter().copied().filter(|byte| *byte != 0).collect();
        transcript.push(&answer);
        assert_eq!(transcript.oddity(&target, &payloads, 10), Some(Oddity::AnswersLines));
        transcript.push(b"more");
        assert_ne!(transcript.oddity(&target, &payloads, 10), Some(Oddity::AnswersLines));
    }

    #[test]
    fn messages_that_are_too_large_are_not_kept() {
        let payloads = Payloads::new(&Messages::new().size(MOST));
        assert_eq!(told("tcp://localhost:1", &payloads, &[b"Hello", &payloads.message(0)]), None);
    }
}
