//! How connections end: what the other side says when it closes one, why it failed, and how much of
//! the echo had come back by then.
//!
//! A [`Reason`] has the same words however much had come, so that the connections of a load can be
//! counted by it. Where in the words the amount stands is part of it.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use crate::causes::{self, Peer};

/// Why a connection ended. Over UDP it can go on after an error.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side closed it, in this way.
    Closed(Farewell),
    Failed(io::Error),
}

impl Ended {
    /// Whether the other side wanted it. A socket that is closed with something unread sends a reset.
    pub(super) fn is_by_peer(&self) -> bool {
        match self {
            Ended::Closed(_) => true,
            Ended::Failed(error) => is_reset(error),
        }
    }
}

/// How the other side closes a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The end of a stream that has nothing else to end it: a FIN.
    EndOfStream,
    /// The end of a TLS stream, as RFC 8446 section 6.1 requires it.
    CloseNotify,
    /// A Close frame, with its code and reason if it has them.
    CloseFrame(Option<(u16, String)>),
    /// The end of the stream below TLS, in place of close_notify.
    WithoutCloseNotify,
    /// The end of the stream below a WebSocket, in place of a Close frame.
    WithoutCloseFrame,
    /// The end of the stream below TLS, in place of a Close frame and of close_notify.
    WithoutEither,
}

impl Farewell {
    /// Whether nothing but the end of the TCP stream was seen.
    fn is_bare(&self) -> bool {
        !matches!(self, Farewell::CloseNotify | Farewell::CloseFrame(_))
    }
}

/// As it goes on after "closed the connection:".
impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Farewell::EndOfStream | Farewell::CloseNotify => f.write_str("end of stream"),
            Farewell::CloseFrame(None) => f.write_str("a Close frame without a code"),
            Farewell::CloseFrame(Some((code, _))) => write!(f, "a Close frame with {code}"),
            Farewell::WithoutCloseNotify => f.write_str("end of stream without close_notify"),
            Farewell::WithoutCloseFrame => f.write_str("end of stream without a Close frame"),
            Farewell::WithoutEither => {
                f.write_str("end of stream without a Close frame and without close_notify")
            }
        }
    }
}

/// The end of a connection on which a write had failed before it was read to its end.
///
/// What the other side said before it went is the better cause. But the kernel tells of a reset once,
/// and has told the write: whoever reads behind that sees an end of stream that never came.
pub(super) fn after_failed_write(write: io::Error, read: Ended) -> Ended {
    match read {
        Ended::Closed(farewell)
            if farewell.is_bare() && write.kind() == io::ErrorKind::ConnectionReset =>
        {
            Ended::Failed(write)
        }
        read => read,
    }
}

/// How much of the echo a connection had brought when it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Echoed {
    /// Bytes of payload, right or wrong, on the whole connection. Of a WebSocket only those of whole
    /// messages.
    pub bytes: u64,
    /// Whole messages, right or wrong.
    pub messages: u64,
    /// Whether a stream has ended within a message.
    pub is_partial: bool,
}

/// Why connections ended, how many did, and how much of the echo each had brought by then.
///
/// Its text is one line: `reset by the peer after 1,024 to 65,536 bytes`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ending {
    /// How many connections.
    pub count: u64,
    /// The least and the most bytes that one of them had brought.
    pub bytes: RangeInclusive<u64>,
    /// The least and the most messages that one of them had brought.
    pub messages: RangeInclusive<u64>,
    /// How many ended within a message.
    pub partial: u64,
    reason: Reason,
    /// What all of them said in their Close frames.
    said: Option<String>,
}

impl Ending {
    pub(super) fn of_one(reason: Reason, echoed: Echoed) -> Self {
        Ending::saying(None, reason, echoed)
    }

    /// `is_websocket` says that messages have boundaries, so that they are what is counted.
    pub(super) fn new(ended: &Ended, is_websocket: bool, echoed: Echoed) -> Self {
        Ending::saying(said(ended), Reason::new(ended, is_websocket), echoed)
    }

    fn saying(said: Option<String>, reason: Reason, echoed: Echoed) -> Self {
        Ending {
            count: 1,
            bytes: echoed.bytes..=echoed.bytes,
            messages: echoed.messages..=echoed.messages,
            partial: u64::from(echoed.is_partial),
            reason,
            said,
        }
    }

    /// Why, without an amount.
    pub fn reason(&self) -> &str {
        &self.reason.words
    }

    /// Adds connections that ended for the same reason.
    pub(super) fn add(&mut self, other: Ending) {
        self.count += other.count;
        self.bytes = hull(&self.bytes, &other.bytes);
        self.messages = hull(&self.messages, &other.messages);
        self.partial += other.partial;
        if self.said != other.said {
            self.said = None;
        }
    }
}

/// The reason, with 1002, that tungstenite puts in the place of a code that no Close frame may have.
const TUNGSTENITES: &str = "Protocol violation";

/// The reason that a Close frame gives, without what a terminal obeys.
fn said(ended: &Ended) -> Option<String> {
    let Ended::Closed(Farewell::CloseFrame(Some((_, reason)))) = ended else { return None };
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(reason).filter(|reason| !reason.is_empty() && *reason != TUNGSTENITES)
}

fn hull(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> RangeInclusive<u64> {
    *one.start().min(other.start())..=*one.end().max(other.end())
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ending { count, partial, reason, .. } = self;
        let (before, behind) = reason.words.split_at(reason.amount_at);
        let (amount, one, many) = match reason.unit {
            Unit::Bytes => (&self.bytes, "byte", "bytes"),
            Unit::Messages => (&self.messages, "echo", "echoes"),
        };
        f.write_str(before)?;
        // Words that do not say how it ended are set apart.
        f.write_str(if reason.is_apart { ", " } else { " " })?;
        match (*amount.start(), *amount.end()) {
            (_, 0) => f.write_str("before any echo")?,
            (1, 1) => write!(f, "after 1 {one}")?,
            (least, most) if least == most => write!(f, "after {} {many}", Grouped(most))?,
            (least, most) => write!(f, "after {} to {} {many}", Grouped(least), Grouped(most))?,
        }
        match *partial {
            0 => {}
            1 if *count == 1 => f.write_str(", in the middle of an echo")?,
            partial if partial == *count => f.write_str(", each in the middle of an echo")?,
            partial => write!(f, ", {} of them in the middle of an echo", Grouped(partial))?,
        }
        f.write_str(behind)?;
        self.said.iter().try_for_each(|said| write!(f, ": \"{said}\""))
    }
}

/// A number with a comma between each three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.char_indices() {
            let is_boundary = at > 0 && (digits.len() - at).is_multiple_of(3);
            write!(f, "{}{digit}", if is_boundary { "," } else { "" })?;
        }
        Ok(())
    }
}

/// What an amount is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Bytes,
    Messages,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    words: String,
    /// Where in the words the amount stands.
    amount_at: usize,
    is_apart: bool,
    unit: Unit,
}

impl Reason {
    fn new(ended: &Ended, is_websocket: bool) -> Self {
        let told = |before: &str, behind: &str, unit| Reason {
            words: [before, behind].concat(),
            amount_at: before.len(),
            is_apart: false,
            unit,
        };
        let truncated = |lacking: &str| {
            let before = format!("the stream ended without {lacking}");
            told(&before, " (truncated)", Unit::Bytes)
        };
        match ended {
            Ended::Closed(Farewell::EndOfStream) => told("closed by the peer", "", Unit::Bytes),
            Ended::Closed(Farewell::CloseNotify) => {
                told("closed by the peer with close_notify", "", Unit::Bytes)
            }
            Ended::Closed(Farewell::CloseFrame(None)) => {
                told("closed with a Close frame that has no code", "", Unit::Messages)
            }
            Ended::Closed(Farewell::CloseFrame(Some((code, reason)))) => {
                if (*code, &**reason) == (1002, TUNGSTENITES) {
                    let before = "closed with 1002, or with a code that no Close frame may have,";
                    return told(before, "", Unit::Messages);
                }
                let meaning = meaning(*code).map(|meaning| format!(" ({meaning})"));
                let before = format!("closed with {code}");
                told(&before, &meaning.unwrap_or_default(), Unit::Messages)
            }
            Ended::Closed(Farewell::WithoutCloseNotify) => truncated("close_notify"),
            Ended::Closed(Farewell::WithoutCloseFrame) => truncated("a Close frame"),
            Ended::Closed(Farewell::WithoutEither) => {
                truncated("a Close frame and without close_notify")
            }
            Ended::Failed(error) if is_reset(error) => told("reset by the peer", "", Unit::Bytes),
            Ended::Failed(error) => {
                let words = causes::of_io(error, Peer::Server);
                let unit = if is_websocket { Unit::Messages } else { Unit::Bytes };
                Reason { amount_at: words.len(), words, is_apart: true, unit }
            }
        }
    }

    /// The other side has said nothing for as long as the timeout, and has not closed.
    pub(super) fn stalled() -> Self {
        let before = "stalled";
        let behind = ": nothing more came, and the connection stayed open";
        Reason {
            words: [before, behind].concat(),
            amount_at: before.len(),
            is_apart: false,
            unit: Unit::Bytes,
        }
    }
}

/// Whether it is the system's word for a TCP RST. HTTP/2 has resets of its own.
fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset && error.get_ref().is_none()
}

/// What a code of a Close frame means (RFC 6455 section 7.4.1, and IANA's registry).
fn meaning(code: u16) -> Option<&'static str> {
    Some(match code {
        1000 => "normal closure",
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid payload data",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "an extension is missing",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reset() -> io::Error {
        io::Error::from_raw_os_error(rustix::io::Errno::CONNRESET.raw_os_error())
    }

    fn told(ended: &Ended, is_websocket: bool, ends: &[(u64, u64, bool)]) -> String {
        let mut all = ends.iter().map(|(bytes, messages, is_partial)| {
            let echoed = Echoed { bytes: *bytes, messages: *messages, is_partial: *is_partial };
            Ending::new(ended, is_websocket, echoed)
        });
        let mut first = all.next().unwrap();
        all.for_each(|other| first.add(other));
        first.to_string()
    }

    #[test]
    fn an_end_is_told_with_what_had_come_back() {
        let frame = |code, reason: &str| {
            Ended::Closed(Farewell::CloseFrame(Some((code, reason.to_owned()))))
        };
        for (ended, echoed, said) in [
            (Ended::Failed(reset()), (65_536, 1024, false), "reset by the peer after 65,536 bytes"),
            (Ended::Failed(reset()), (0, 0, false), "reset by the peer before any echo"),
            (
                Ended::Closed(Farewell::EndOfStream),
                (1_234_567, 9, true),
                "closed by the peer after 1,234,567 bytes, in the middle of an echo",
            ),
            (
                Ended::Closed(Farewell::WithoutCloseNotify),
                (512, 8, false),
                "the stream ended without close_notify after 512 bytes (truncated)",
            ),
            (
                Ended::Closed(Farewell::CloseNotify),
                (1, 1, false),
                "closed by the peer with close_notify after 1 byte",
            ),
            (frame(1011, ""), (192, 3, false), "closed with 1011 after 3 echoes (internal error)"),
            (frame(4000, "bye"), (64, 1, false), "closed with 4000 after 1 echo: \"bye\""),
            (
                frame(1013, "busy\u{1b}"),
                (0, 0, false),
                "closed with 1013 before any echo (try again later): \"busy \"",
            ),
            (Ended::Failed(io::Error::other("it broke")), (64, 1, false), "it broke, after 1 echo"),
        ] {
            assert_eq!(told(&ended, true, &[echoed]), said);
        }
    }

    #[test]
    fn the_ends_of_many_connections_are_one_line() {
        let ended = Ended::Failed(reset());
        let same = [(1024, 16, false), (1024, 16, false)];
        assert_eq!(told(&ended, false, &same), "reset by the peer after 1,024 bytes");
        let differ = [(1024, 16, false), (0, 0, false), (100, 1, true)];
        assert_eq!(
            told(&ended, false, &differ),
            "reset by the peer after 0 to 1,024 bytes, 1 of them in the middle of an echo"
        );
        let cut = [(10, 0, true), (20, 0, true)];
        assert_eq!(
            told(&ended, false, &cut),
            "reset by the peer after 10 to 20 bytes, each in the middle of an echo"
        );
    }

    #[test]
    fn a_reason_that_differs_is_nobodys() {
        let frame = |reason: &str| {
            let said = Ended::Closed(Farewell::CloseFrame(Some((1011, reason.to_owned()))));
            Ending::new(&said, true, Echoed { bytes: 64, messages: 1, is_partial: false })
        };
        let mut all = frame("one");
        all.add(frame("one"));
        assert_eq!(all.to_string(), "closed with 1011 after 1 echo (internal error): \"one\"");
        all.add(frame("another"));
        assert_eq!(all.to_string(), "closed with 1011 after 1 echo (internal error)");
        assert_eq!(all.reason(), "closed with 1011 (internal error)");
    }

    #[test]
    fn behind_a_failed_write_the_other_sides_last_word_counts_and_a_reset_is_one() {
        let closed = |farewell| Ended::Closed(farewell);
        let pipe = || io::Error::from_raw_os_error(rustix::io::Errno::PIPE.raw_os_error());
        let code = Farewell::CloseFrame(Some((1011, String::new())));
        let said = |write, read| Reason::new(&after_failed_write(write, read), true).words;
        assert_eq!(said(pipe(), closed(Farewell::EndOfStream)), "closed by the peer");
        assert_eq!(said(reset(), closed(Farewell::EndOfStream)), "reset by the peer");
        assert_eq!(said(reset(), closed(Farewell::WithoutCloseNotify)), "reset by the peer");
        assert_eq!(said(reset(), closed(code)), "closed with 1011 (internal error)");
        assert_eq!(
            said(reset(), closed(Farewell::CloseNotify)),
            "closed by the peer with close_notify"
        );
    }
}
