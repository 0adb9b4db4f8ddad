//! WebSocket frames (RFC 6455 section 5) turned from a client's into a server's, in place.
//!
//! A server's frame is the client's without its masking key, so a frame's echo is made in place.
//! The header is written anew, four bytes shorter, right in front of the payload, and the payload
//! is unmasked. A Ping becomes a Pong, and a Close its answer. Framing is preserved and no message
//! is ever assembled, so a message of any size needs a constant amount of state.
//!
//! Three things are kept from one read to the next: an incomplete header, the position within the
//! current frame, and the payload so far of a frame that is held back. Held back are Close frames,
//! and text frames that fit the buffer: they are validated as a whole, so that an invalid one is
//! answered with a Close frame and nothing else. A longer text frame is echoed as it comes. If it
//! turns out to be invalid, no Close frame can be sent, since no frame may stand inside another,
//! and the connection is closed without one (RFC 6455 section 7.1.7).
//!
//! Compressed messages (RFC 7692) go back as they came. `protocols/ws/deflate.rs` negotiates the
//! parameters that allow this.

mod header;
mod inflate;
mod mask;
#[cfg(test)]
mod tests;
mod utf8;

use std::ops::Range;
use std::time::Duration;

use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::framing::{Framing, Rewritten};
use super::{EchoError, Goodbye, Moved, PeerEnd, Traffic};
use header::{Expected, Header};
use inflate::Inflater;
use mask::unmask;
use utf8::Utf8;

/// What a pass may cost before it stops and leaves the rest of its input for later, so that no pass
/// takes much more than half a millisecond. The unit is a byte that is inflated and validated.
const PASS_LIMIT: u64 = 256 * 1024;

/// A pass that stays below that limit was costly, too, if it cost more than this, and each byte of its
/// input more than a message of 10 bytes does. Without it, a flood of empty frames in batches just
/// below the limit would never count.
const COSTLY_PASS: u64 = PASS_LIMIT / 4;
const COSTLY_BYTE: u64 = 4;

/// What the header of a frame costs, in the same unit.
const HEADER_COST: u64 = 64;

/// Compressed bytes that are inflated before the cost is looked at: they can inflate a thousandfold.
const INFLATED_AT_ONCE: usize = 128;

/// The frames of one connection whose opening handshake is done.
#[derive(Debug, Default)]
pub struct Frames {
    compression: bool,
    hold_limit: u32,
    /// The beginning of a header that a read has cut.
    cut: [u8; header::MAX],
    cut_length: u8,
    frame: Option<Frame>,
    message: Option<Message>,
    /// The echo so far of a frame that is validated as a whole.
    kept: Vec<u8>,
    /// The close code of a violation.
    verdict: Option<CloseCode>,
    /// The peer's Close frame has come.
    is_closed: bool,
    /// Input that a costly pass has left.
    unread: Option<Box<[u8]>>,
    received: u64,
    sent: u64,
    messages: u64,
}

/// A frame whose payload is not complete.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    is_final: bool,
    /// A part of its echo has been sent.
    is_begun: bool,
    /// The masking key, rotated to the next byte of the payload.
    mask: [u8; 4],
    /// Payload bytes to come.
    left: u64,
    /// Payload bytes that have come and are not counted as sent.
    unsent: u64,
}

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    /// Needs no answer, solicited or not (section 5.5.3).
    Pong,
    Close,
}

/// A data message that is not complete.
#[derive(Debug)]
enum Message {
    /// Not validated, compressed or not.
    Binary,
    Text(Utf8),
    CompressedText(Box<(Inflater, Utf8)>),
}

/// A protocol violation: the close code for the peer, and the detail for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Violation {
    code: CloseCode,
    detail: &'static str,
}

impl Frames {
    /// `compression` says that permessage-deflate was negotiated, with the same parameters in both
    /// directions and with `client_no_context_takeover`. A text frame whose echo has up to
    /// `hold_limit` bytes is held back until all of it is known to be valid.
    pub fn new(compression: bool, hold_limit: usize) -> Self {
        let hold_limit = u32::try_from(hold_limit).unwrap_or(u32::MAX);
        Frames { compression, hold_limit, ..Frames::default() }
    }

    /// The same, with input that was read past the end of the opening handshake.
    #[must_use]
    pub fn with_early_input(mut self, input: &[u8]) -> Self {
        self.unread = (!input.is_empty()).then(|| input.into());
        self
    }

    /// A text message that is sent before any echo, as a frame. It counts as sent, though not as a
    /// message.
    pub fn greeting(&mut self, text: &str) -> Vec<u8> {
        let payload = text.as_bytes().to_vec();
        self.sent += payload.len() as u64;
        let frame =
            tungstenite::protocol::frame::Frame::message(payload, OpCode::Data(Data::Text), true);
        let mut message = Vec::new();
        frame.format(&mut message).expect("memory takes every byte");
        message
    }
}

impl Framing for Frames {
    const HEADROOM: usize = header::MAX;

    /// For the closing handshake.
    const LINGER: Duration = Duration::from_secs(5);

    const PINGS: bool = true;

    fn pass(&mut self, buffer: &mut [u8]) -> Rewritten {
        if self.is_closed || self.verdict.is_some() {
            return Rewritten::default();
        }
        let cut = usize::from(std::mem::take(&mut self.cut_length));
        let begin = header::MAX - cut;
        let length = buffer.len() - begin;
        buffer[begin..header::MAX].copy_from_slice(&self.cut[..cut]);
        let mut pass = Pass {
            input: begin..buffer.len(),
            output: begin..begin,
            frame_at: begin,
            released: Vec::new(),
            cost: 0,
            buffer,
        };
        let end = match self.run(&mut pass) {
            Ok(close) => {
                self.is_closed = close.is_some();
                close.map(Ok)
            }
            Err(Violation { code, detail }) => {
                self.verdict = Some(code);
                Some(Err(EchoError::Protocol { code: code.into(), detail }))
            }
        };
        let Pass { buffer, input, output, released, cost, .. } = pass;
        if end.is_none() && !input.is_empty() {
            // What is unread already, of an early input that is longer than a batch, comes behind it.
            let behind = self.unread.take().unwrap_or_default();
            self.unread = Some([&buffer[input], &behind].concat().into());
        }
        let is_much = cost > COSTLY_PASS && cost > COSTLY_BYTE * length as u64;
        Rewritten { released, output, end, was_costly: cost > PASS_LIMIT || is_much }
    }

    fn take_unread(&mut self, most: usize) -> Option<Box<[u8]>> {
        let unread = self.unread.take()?;
        let Some((next, rest)) = unread.split_at_checked(most) else { return Some(unread) };
        if rest.is_empty() {
            return Some(unread);
        }
        self.unread = Some(rest.into());
        Some(next.into())
    }

    fn holds(&self) -> bool {
        let inflates = matches!(self.message, Some(Message::CompressedText(_)));
        !self.kept.is_empty() || self.unread.is_some() || inflates
    }

    fn held(&self) -> usize {
        let unread = self.unread.as_ref().map_or(0, |unread| unread.len());
        let inflater = match self.message {
            Some(Message::CompressedText(_)) => Inflater::SIZE,
            _ => 0,
        };
        self.kept.capacity() + unread + inflater
    }

    fn is_at_boundary(&self) -> bool {
        self.frame.as_ref().is_none_or(|frame| !frame.is_begun)
    }

    fn farewell(&mut self, why: Goodbye) -> Option<Box<[u8]>> {
        // No frame may follow a Close frame (section 5.5.1), and none may stand inside another.
        if self.is_closed || !self.is_at_boundary() {
            return None;
        }
        let code = match (self.verdict, why) {
            (Some(verdict), _) => verdict,
            (None, Goodbye::GoingAway) => CloseCode::Away,
            (None, Goodbye::Answer) => return None,
        };
        Some(control(Control::Close, &u16::from(code).to_be_bytes()))
    }

    fn ping(&self) -> Option<Box<[u8]>> {
        Some(control(Control::Ping, b"echo-server"))
    }

    fn end_of_input(&self) -> PeerEnd {
        PeerEnd::Truncated
    }

    fn traffic(&self, _moved: Moved) -> Traffic {
        Traffic { received: self.received, sent: self.sent, messages: self.messages }
    }
}

/// One pass over the buffer.
struct Pass<'a> {
    buffer: &'a mut [u8],
    /// The input that has not been parsed. The output never reaches it, since each frame gets
    /// shorter.
    input: Range<usize>,
    output: Range<usize>,
    /// Where the output of the current frame begins.
    frame_at: usize,
    /// The echo of a held back frame that is now complete.
    released: Vec<u8>,
    /// See [`PASS_LIMIT`].
    cost: u64,
}

impl Frames {
    fn run(&mut self, pass: &mut Pass<'_>) -> Result<Option<PeerEnd>, Violation> {
        while pass.cost <= PASS_LIMIT || pass.input.is_empty() {
            if self.frame.is_none() {
                let expected = Expected {
                    continuation: self.message.is_some(),
                    compression: self.compression,
                };
                let Some(header) = header::parse(&pass.buffer[pass.input.clone()], expected)?
                else {
                    let cut = &pass.buffer[pass.input.clone()];
                    self.cut[..cut.len()].copy_from_slice(cut);
                    self.cut_length = cut.len() as u8;
                    pass.input.start = pass.input.end;
                    return Ok(None);
                };
                self.begin(&header, pass);
            }
            let is_whole = self.payload(pass)?;
            if !is_whole {
                return Ok(None);
            }
            if let Some(close) = self.finish(pass)? {
                return Ok(Some(close));
            }
        }
        Ok(None)
    }

    /// Begins a frame: writes the header of its echo.
    fn begin(&mut self, header: &Header, pass: &mut Pass<'_>) {
        pass.input.start += header.length;
        pass.cost += HEADER_COST;
        let kind = match header.opcode() {
            OpCode::Control(Control::Close) => Kind::Close,
            OpCode::Control(Control::Ping) => Kind::Ping,
            OpCode::Control(_) => Kind::Pong,
            OpCode::Data(data) => {
                match data {
                    Data::Text => self.message = Some(Message::text(header.is_compressed())),
                    Data::Binary => self.message = Some(Message::Binary),
                    Data::Continue | Data::Reserved(_) => {}
                }
                Kind::Data
            }
        };
        self.frame = Some(Frame {
            kind,
            is_final: header.is_final(),
            is_begun: false,
            mask: header.mask,
            left: header.payload,
            unsent: 0,
        });
        if kind == Kind::Pong {
            return;
        }
        let length = header.echo_length();
        if pass.output.is_empty() {
            // Right in front of the payload, which then need not be moved.
            let at = pass.input.start - length;
            pass.output = at..at;
        }
        pass.frame_at = pass.output.end;
        header.write_echo(&mut pass.buffer[pass.output.end..][..length]);
        pass.output.end += length;
    }

    /// Echoes as much of the current frame's payload as has come. Returns whether the frame is
    /// complete.
    fn payload(&mut self, pass: &mut Pass<'_>) -> Result<bool, Violation> {
        let frame = self.frame.as_mut().expect("a payload follows its header");
        let available = pass.input.len();
        let length = usize::try_from(frame.left).map_or(available, |left| left.min(available));
        let start = pass.input.start;
        let mut fed = Ok(length);
        let mut is_validated = frame.kind == Kind::Close;
        let message = self.message.as_mut().filter(|_| frame.kind == Kind::Data);
        let payload = &mut pass.buffer[start..start + length];
        if let Some(message) = message {
            is_validated = message.is_text();
            fed = message.feed(payload, &mut frame.mask, &mut pass.cost);
        } else {
            unmask(payload, &mut frame.mask);
        }
        // Less than there is, if the rest has to wait.
        let length = match fed {
            Ok(length) => length,
            Err(violation) => {
                self.received += length as u64;
                self.take_back(pass);
                return Err(violation);
            }
        };
        let here = start..start + length;
        pass.input.start = here.end;
        frame.left -= length as u64;
        if frame.kind == Kind::Data {
            self.received += length as u64;
            frame.unsent += length as u64;
        }
        let payload = &pass.buffer[here.clone()];
        if frame.kind == Kind::Pong {
            return Ok(frame.left == 0);
        }
        if !self.kept.is_empty() {
            self.kept.extend_from_slice(payload);
            return Ok(frame.left == 0);
        }
        if pass.output.is_empty() {
            // The frame goes on from an earlier batch: its payload need not be moved.
            pass.output = here.start..here.start;
            pass.frame_at = here.start;
        }
        if pass.output.end != here.start {
            pass.buffer.copy_within(here, pass.output.end);
        }
        pass.output.end += length;
        if frame.left == 0 {
            return Ok(true);
        }
        let made = pass.frame_at..pass.output.end;
        // A Close frame has at most 125 bytes, and is held back whatever the limit.
        let fits = frame.kind == Kind::Close
            || made.len() as u64 + frame.left <= u64::from(self.hold_limit);
        if is_validated && fits && !frame.is_begun {
            self.kept = pass.buffer[made.clone()].to_vec();
            pass.output.end = made.start;
        } else {
            frame.is_begun = true;
            self.sent += std::mem::take(&mut frame.unsent);
        }
        Ok(false)
    }

    /// Completes the current frame. Returns how the peer ended, if this was its Close frame.
    fn finish(&mut self, pass: &mut Pass<'_>) -> Result<Option<PeerEnd>, Violation> {
        let frame = self.frame.as_ref().expect("a frame that ends has begun");
        let mut close = None;
        let result = match frame.kind {
            Kind::Ping | Kind::Pong => Ok(()),
            Kind::Close => {
                let made = &pass.buffer[pass.frame_at..pass.output.end];
                let made = if self.kept.is_empty() { made } else { &self.kept };
                // A control frame's payload is at most 125 bytes, so its header has two.
                validate_close(&made[2..]).map(|code| close = Some(PeerEnd::Close(code)))
            }
            Kind::Data if frame.is_final => {
                self.messages += 1;
                let message = self.message.take().expect("a data frame is part of a message");
                message.finish(&mut pass.cost)
            }
            Kind::Data => Ok(()),
        };
        if result.is_err() {
            self.take_back(pass);
            return result.map(|()| None);
        }
        self.sent += frame.unsent;
        self.frame = None;
        if !self.kept.is_empty() {
            pass.released = std::mem::take(&mut self.kept);
        }
        Ok(close)
    }

    /// Removes the current frame from the output, except for what an earlier pass has sent.
    fn take_back(&mut self, pass: &mut Pass<'_>) {
        pass.output.end = pass.frame_at;
        self.kept = Vec::new();
    }
}

impl Message {
    fn text(is_compressed: bool) -> Self {
        if is_compressed {
            Message::CompressedText(Box::new((Inflater::new(), Utf8::default())))
        } else {
            Message::Text(Utf8::default())
        }
    }

    fn is_text(&self) -> bool {
        !matches!(self, Message::Binary)
    }

    /// Unmasks and validates the next bytes of the message, up to the first violation. Returns how
    /// many of them, since the rest may have to wait.
    fn feed(
        &mut self,
        payload: &mut [u8],
        mask: &mut [u8; 4],
        cost: &mut u64,
    ) -> Result<usize, Violation> {
        let Message::CompressedText(text) = self else {
            unmask(payload, mask);
            if let Message::Text(utf8) = self {
                utf8.feed(payload).map_err(|_| NOT_UTF8)?;
            }
            return Ok(payload.len());
        };
        let (inflater, utf8) = &mut **text;
        let mut fed = 0;
        for bytes in payload.chunks_mut(INFLATED_AT_ONCE) {
            if *cost > PASS_LIMIT {
                break;
            }
            unmask(bytes, mask);
            *cost += inflater.feed(bytes, utf8)?;
            fed += bytes.len();
        }
        Ok(fed)
    }

    fn finish(self, cost: &mut u64) -> Result<(), Violation> {
        let utf8 = match self {
            Message::Binary => return Ok(()),
            Message::Text(utf8) => utf8,
            Message::CompressedText(text) => {
                let (mut inflater, mut utf8) = *text;
                *cost += inflater.finish(&mut utf8)?;
                utf8
            }
        };
        if utf8.is_complete() { Ok(()) } else { Err(NOT_UTF8) }
    }
}

const NOT_UTF8: Violation = Violation { code: CloseCode::Invalid, detail: "text is not UTF-8" };

/// Validates a Close frame's payload (section 5.5.1): nothing, or a code and a reason.
fn validate_close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let violation = |detail| Violation { code: CloseCode::Protocol, detail };
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(violation("half a close code")) };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { detail: "a close reason is not UTF-8", ..NOT_UTF8 });
    }
    let code = u16::from_be_bytes(*code);
    // tungstenite's list lacks Bad Gateway (1014), which was registered later.
    if CloseCode::from(code).is_allowed() || code == 1014 {
        Ok(Some(code))
    } else {
        Err(violation("a close code that may not be sent"))
    }
}

/// A server's control frame.
fn control(control: Control, payload: &[u8]) -> Box<[u8]> {
    debug_assert!(payload.len() <= 125, "a control frame has at most 125 bytes");
    let header = [0x80 | u8::from(OpCode::Control(control)), payload.len() as u8];
    [&header, payload].concat().into()
}
