//! Asks for facts on a connection, and checks that it echoes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::received::{Facts, Parsed, parse};
use super::{EchoCheck, NoFacts};
use crate::causes::{self, Peer};
use crate::pace::later;
use crate::probe::ending::{Ended, Farewell, after_failed_write};
use crate::probe::link::{self, Inbox, Incoming, Link, Outbox};
use crate::probe::messages::MAX_DATAGRAM_PAYLOAD;
use crate::probe::payload::Payloads;
use crate::probe::stranger::quote;
use crate::probe::tracker::Difference;

/// The most bytes of a first line or message that are read.
pub(super) const LONGEST: usize = 256 * 1024;

/// What a datagram that asks for facts begins with.
const QUESTION: &[u8] = b"ECHO-FACTS?";

/// What fills it up. A service that drops NUL or trims spaces leaves a dot alone.
const PADDING: u8 = b'.';

/// How long the first question is in bytes: almost every path carries it unfragmented.
const FIRST_QUESTION: usize = 1200;

/// How often a question is asked: a datagram can be lost.
const TRIES: u32 = 3;

/// How often a question is lengthened. A server asks for one that is long enough for the facts, which
/// may have grown meanwhile.
const LENGTHENINGS: usize = 2;

/// How many bytes of a stream are read at once.
const CHUNK: usize = 16 * 1024;

/// Why there are no facts.
pub(super) enum Stopped {
    NoFacts(NoFacts),
    /// The connection has failed.
    Failed(io::Error),
}

impl From<NoFacts> for Stopped {
    fn from(why: NoFacts) -> Self {
        Stopped::NoFacts(why)
    }
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        match link::is_too_long(&error) {
            true => Stopped::NoFacts(NoFacts::TooLong),
            false => Stopped::Failed(error),
        }
    }
}

/// What is said and heard on a connection.
pub(super) struct Conversation<'a> {
    link: &'a mut Link,
    timeout: Duration,
    /// The PROXY header that was sent. Empty: none was.
    header: &'a [u8],
    inbox: Inbox,
    outbox: Outbox,
    is_text: bool,
    is_unflushed: bool,
    /// What has come of a stream behind the facts.
    rest: Vec<u8>,
    /// The write that has failed on a connection, which is then read to its end.
    failed_write: Option<io::Error>,
    /// The last question over UDP, whose echo may come late.
    question: Vec<u8>,
    /// Replies to it that have come together with another.
    replies: VecDeque<Vec<u8>>,
}

/// What was received.
enum Heard {
    Bytes(Vec<u8>),
    Datagrams(Vec<Vec<u8>>),
    /// Whether it is text comes second.
    Message(Vec<u8>, bool),
    End(Farewell),
}

impl From<Incoming<'_>> for Heard {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Bytes(bytes) => Heard::Bytes(bytes.to_vec()),
            Incoming::Datagrams(received) => {
                Heard::Datagrams(received.iter().map(<[u8]>::to_vec).collect())
            }
            Incoming::Message(bytes, is_text) => Heard::Message(bytes.to_vec(), is_text),
            Incoming::End(how) => Heard::End(how),
        }
    }
}

impl<'a> Conversation<'a> {
    pub(super) fn new(link: &'a mut Link, timeout: Duration, header: &'a [u8]) -> Self {
        Conversation {
            link,
            timeout,
            header,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            is_text: false,
            is_unflushed: false,
            rest: Vec::new(),
            failed_write: None,
            question: Vec::new(),
            replies: VecDeque::new(),
        }
    }

    /// Waits for the facts. Over UDP it asks for them.
    pub(super) async fn facts(&mut self) -> Result<Facts, Stopped> {
        match self.link {
            Link::Bytes(_) => self.first_line().await,
            Link::Messages(_) => self.first_message().await,
            Link::Datagrams(_) => self.answer().await,
        }
    }

    async fn first_line(&mut self) -> Result<Facts, Stopped> {
        let deadline = self.deadline();
        let mut line = Vec::new();
        loop {
            let bytes = match self.hear(deadline).await? {
                Some(Heard::Bytes(bytes)) => bytes,
                Some(Heard::End(_)) | None if !line.is_empty() => {
                    return Err(NoFacts::Unfinished.into());
                }
                Some(Heard::End(how)) => return Err(NoFacts::Closed(how.to_string()).into()),
                _ => return Err(NoFacts::Silent { timeout: self.timeout }.into()),
            };
            let before = line.len();
            line.extend(bytes);
            if let Some(end) = line[before..].iter().position(|byte| *byte == b'\n') {
                self.rest = line.split_off(before + end + 1);
                return only_facts(&line);
            }
            if !line.starts_with(b"{") {
                return Err(other(&line).into());
            }
            if line.len() >= LONGEST {
                return Err(NoFacts::TooLong.into());
            }
        }
    }

    async fn first_message(&mut self) -> Result<Facts, Stopped> {
        match self.hear(self.deadline()).await? {
            Some(Heard::Message(bytes, _)) if bytes.is_empty() => Err(NoFacts::Empty.into()),
            Some(Heard::Message(bytes, _)) if bytes.len() > LONGEST => Err(NoFacts::TooLong.into()),
            Some(Heard::Message(bytes, true)) => only_facts(&bytes),
            Some(Heard::Message(bytes, false)) => Err(other(&bytes).into()),
            Some(Heard::End(how)) => Err(NoFacts::Closed(how.to_string()).into()),
            _ => Err(NoFacts::Silent { timeout: self.timeout }.into()),
        }
    }

    /// Asks, and asks with a longer question if the reply needs one. One reply that is nothing of the
    /// kind may be a stray datagram; a second one is not.
    async fn answer(&mut self) -> Result<Facts, Stopped> {
        let mut size = FIRST_QUESTION;
        let (mut lengthenings, mut strays) = (0, 0);
        let mut why = NoFacts::Silent { timeout: self.timeout.saturating_mul(TRIES) };
        'question: loop {
            for _ in 0..TRIES {
                self.ask(size);
                let deadline = self.deadline();
                while let Some(reply) = self.reply(deadline).await? {
                    match parse(&reply) {
                        Parsed::Facts(facts) => return Ok(facts),
                        Parsed::Version(version) => return Err(NoFacts::Version(version).into()),
                        Parsed::Need(bytes) => match usize::try_from(bytes) {
                            // It may be a second reply to the question before this one.
                            Ok(longer) if longer <= size => why = other(&reply),
                            Ok(longer) if longer <= MAX_DATAGRAM_PAYLOAD => {
                                if lengthenings == LENGTHENINGS {
                                    return Err(NoFacts::KeepsGrowing { bytes }.into());
                                }
                                lengthenings += 1;
                                size = longer;
                                continue 'question;
                            }
                            _ => return Err(NoFacts::Needs { bytes }.into()),
                        },
                        Parsed::Other if reply == self.question => {
                            return Err(NoFacts::Echoed.into());
                        }
                        Parsed::Other => {
                            why = if reply.is_empty() { NoFacts::Empty } else { other(&reply) };
                            strays += 1;
                            if strays == 2 {
                                return Err(why.into());
                            }
                        }
                    }
                }
            }
            return Err(why.into());
        }
    }

    fn ask(&mut self, size: usize) {
        let mut question = QUESTION.to_vec();
        question.resize(size, PADDING);
        self.outbox = Outbox::default();
        self.outbox.refill(1, |bytes| bytes.extend_from_slice(&question));
        self.question = question;
    }

    /// The next datagram. `None` if none comes in time.
    async fn reply(&mut self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        while self.replies.is_empty() {
            // As long as something comes, it has no end.
            if Instant::now() >= deadline {
                return Ok(None);
            }
            match self.hear(deadline).await? {
                Some(Heard::Datagrams(datagrams)) => self.replies.extend(datagrams),
                Some(_) => {}
                None => return Ok(None),
            }
        }
        Ok(self.replies.pop_front())
    }

    /// Sends a message, and waits for it to come back.
    pub(super) async fn echo(&mut self, payloads: &Payloads) -> EchoCheck {
        let message = payloads.message(0);
        self.is_text = payloads.is_text() && matches!(self.link, Link::Messages(_));
        self.outbox = Outbox::default();
        self.outbox.refill(1, |bytes| bytes.extend_from_slice(&message));
        let deadline = self.deadline();
        let mut received = std::mem::take(&mut self.rest);
        loop {
            if !self.header.is_empty() && received.starts_with(self.header) {
                return EchoCheck::ProxyHeader;
            }
            let is_message = message.starts_with(&received);
            let is_whole = is_message && received.len() == message.len();
            let is_other = !is_message && !self.header.starts_with(&received);
            if !received.is_empty() && (is_whole || is_other) {
                // Of a stream, the rest is still to come.
                return verdict(&message[..received.len().min(message.len())], &received);
            }
            match self.hear(deadline).await {
                Ok(Some(Heard::Bytes(bytes))) => received.extend(bytes),
                Ok(Some(Heard::Message(bytes, is_text))) => {
                    return match is_text == self.is_text {
                        true => verdict(&message, &bytes),
                        false => EchoCheck::Different(None),
                    };
                }
                Ok(Some(Heard::Datagrams(datagrams))) => {
                    let mut own = datagrams.into_iter().filter(|bytes| !self.is_late(bytes));
                    if let Some(reply) = own.next() {
                        return verdict(&message, &reply);
                    }
                    if Instant::now() >= deadline {
                        return self.overdue();
                    }
                }
                Ok(Some(Heard::End(how))) => {
                    return EchoCheck::Missing(format!("closed by the other side: {how}"));
                }
                Ok(None) => return self.overdue(),
                Err(error) if matches!(self.link, Link::Datagrams(_)) => {
                    return EchoCheck::Missing(causes::of_datagram(&error));
                }
                Err(error) => return EchoCheck::Missing(causes::of_io(&error, Peer::Server)),
            }
        }
    }

    fn overdue(&self) -> EchoCheck {
        let waited = humantime::format_duration(self.timeout);
        EchoCheck::Missing(format!("it did not come back within {waited}"))
    }

    /// Whether a datagram is another reply to a question.
    fn is_late(&self, datagram: &[u8]) -> bool {
        datagram.starts_with(QUESTION) || !matches!(parse(datagram), Parsed::Other)
    }

    fn deadline(&self) -> Instant {
        later(Instant::now(), self.timeout)
    }

    /// What comes next, while what is to be sent is sent. `None` if nothing comes in time.
    async fn hear(&mut self, deadline: Instant) -> io::Result<Option<Heard>> {
        match timeout_at(deadline, poll_fn(|cx| self.poll_hear(cx))).await {
            Ok(heard) => heard.map(Some),
            Err(_) => self.failed_write.take().map_or(Ok(None), Err),
        }
    }

    fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Heard>> {
        if let Poll::Ready(Err(error)) = self.poll_say(cx) {
            if matches!(self.link, Link::Datagrams(_)) {
                return Poll::Ready(Err(error));
            }
            // What the other side said before it went is there to be read.
            self.failed_write = Some(error);
            self.is_unflushed = false;
        }
        let heard = ready!(self.link.poll_receive(cx, &mut self.inbox, CHUNK, false));
        let ended = match heard.map(Heard::from) {
            Ok(Heard::End(farewell)) => Ended::Closed(farewell),
            Ok(heard) => return Poll::Ready(Ok(heard)),
            Err(error) => Ended::Failed(error),
        };
        let ended = match self.failed_write.take() {
            Some(write) => after_failed_write(write, ended),
            None => ended,
        };
        Poll::Ready(match ended {
            Ended::Closed(farewell) => Ok(Heard::End(farewell)),
            Ended::Failed(error) => Err(error),
        })
    }

    /// Sends what is to be sent.
    fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_full() {
            ready!(self.link.poll_send(cx, &mut self.outbox, self.is_text))?;
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(self.link.poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn only_facts(bytes: &[u8]) -> Result<Facts, Stopped> {
    match parse(bytes) {
        Parsed::Facts(facts) => Ok(facts),
        Parsed::Version(version) => Err(NoFacts::Version(version).into()),
        Parsed::Need(_) | Parsed::Other => Err(other(bytes).into()),
    }
}

fn other(bytes: &[u8]) -> NoFacts {
    NoFacts::Other { quoted: quote(bytes) }
}

fn verdict(message: &[u8], received: &[u8]) -> EchoCheck {
    match Difference::between(message, received) {
        None => EchoCheck::Exact(message.len()),
        different => EchoCheck::Different(different),
    }
}
