//! WebSocket frames (RFC 6455 section 5) turned from a client's into a server's, in place.
//!
//! A server's frame is the client's without its masking key, so the echo of a frame is made where
//! it stands: the header is written anew, four bytes shorter, right in front of the payload, and
//! the payload is unmasked. A ping becomes its pong, a Close its answer. Framing is preserved, and
//! no message is ever assembled, so that one of any size passes through a state of constant size.
//!
//! What is kept from one read to the next: a header that was cut; where in a frame we are; and of a
//! text frame that fits the buffer, and of a Close frame, the payload so far. Those two are judged
//! as a whole, so that a wrong one is answered with a Close frame and nothing else. A longer text
//! frame is sent on as it comes. If it turns out to be wrong, nothing can be said any more, for no
//! frame may stand inside another: TCP is closed (RFC 6455 section 7.1.7).
//!
//! Compressed messages (RFC 7692) go back as they came; see `http/deflate.rs` for what makes that
//! right.

mod header;
mod inflate;
mod mask;
#[cfg(test)]
mod tests;
mod utf8;

use std::ops::Range;
use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::framing::{Framing, Rewritten};
use super::{EchoError, Goodbye, Moved, PeerEnd, Traffic};
use header::{Expected, Header};
use inflate::Inflater;
use mask::unmask;
use utf8::Utf8;

/// After this many inflated bytes in one pass it is the others' turn.
const TOIL: u64 = 256 * 1024;

/// The frames of one connection whose opening handshake is done.
#[derive(Debug, Default)]
pub struct Frames {
    compression: bool,
    judged_whole: u32,
    /// A header that a read has cut.
    cut: [u8; header::MAX],
    cut_length: u8,
    frame: Option<Frame>,
    message: Option<Message>,
    /// What was kept of a frame that is judged as a whole.
    kept: Vec<u8>,
    verdict: Option<CloseCode>,
    /// The peer's Close frame was seen.
    is_closed: bool,
    received: u64,
    sent: u64,
    messages: u64,
}

/// A frame whose payload is under way.
#[derive(Debug)]
struct Frame {
    kind: Kind,
    is_final: bool,
    /// Some of it was sent.
    is_begun: bool,
    /// Turned to where the payload goes on.
    mask: [u8; 4],
    /// Payload to come.
    left: u64,
    /// Payload that came and is not counted as sent.
    unsent: u64,
}

/// What is done with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Ping,
    /// Nobody asked for it, or we did: no answer (section 5.5.3).
    Pong,
    Close,
}

/// A data message under way.
#[derive(Debug)]
enum Message {
    /// Anything goes, compressed or not.
    Binary,
    Text(Utf8),
    CompressedText(Box<(Inflater, Utf8)>),
}

/// A breach of the protocol: what the peer is told, and what the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Violation {
    code: CloseCode,
    detail: &'static str,
}

impl Frames {
    /// `compression`: permessage-deflate was agreed upon, with parameters that are the same in
    /// both directions, and without context takeover by the client. A text frame of up to
    /// `judged_whole` bytes is not sent before all of it is known to be right.
    pub fn new(compression: bool, judged_whole: usize) -> Self {
        let judged_whole = u32::try_from(judged_whole).unwrap_or(u32::MAX);
        Frames { compression, judged_whole, ..Frames::default() }
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
        buffer[begin..header::MAX].copy_from_slice(&self.cut[..cut]);
        let mut pass = Pass {
            input: begin..buffer.len(),
            output: begin..begin,
            frame_at: begin,
            released: Vec::new(),
            toil: 0,
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
        let Pass { output, released, toil, .. } = pass;
        Rewritten { released, output, end, toiled: toil > TOIL }
    }

    fn is_at_boundary(&self) -> bool {
        self.frame.as_ref().is_none_or(|frame| !frame.is_begun)
    }

    fn farewell(&mut self, why: Goodbye) -> Option<Box<[u8]>> {
        // A Close frame is the last (section 5.5.1).
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
    /// Where the input is that has not been looked at. The output never reaches it: each frame
    /// gets shorter.
    input: Range<usize>,
    output: Range<usize>,
    /// Where the output of the current frame begins.
    frame_at: usize,
    /// What was kept of a frame that is whole now.
    released: Vec<u8>,
    /// Bytes that were inflated.
    toil: u64,
}

impl Frames {
    fn run(&mut self, pass: &mut Pass<'_>) -> Result<Option<PeerEnd>, Violation> {
        loop {
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
    }

    /// A frame begins: writes its echo's header.
    fn begin(&mut self, header: &Header, pass: &mut Pass<'_>) {
        pass.input.start += header.length;
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
            // The first output goes right in front of its payload, which can stay where it is.
            let at = pass.input.start - length;
            pass.output = at..at;
        }
        pass.frame_at = pass.output.end;
        header.write_echo(&mut pass.buffer[pass.output.end..][..length]);
        pass.output.end += length;
    }

    /// Echoes as much of the current frame's payload as there is. Whether that was all.
    fn payload(&mut self, pass: &mut Pass<'_>) -> Result<bool, Violation> {
        let frame = self.frame.as_mut().expect("a payload follows its header");
        let available = pass.input.len();
        let length = usize::try_from(frame.left).map_or(available, |left| left.min(available));
        let here = pass.input.start..pass.input.start + length;
        pass.input.start = here.end;
        frame.left -= length as u64;
        let payload = &mut pass.buffer[here.clone()];
        unmask(payload, &mut frame.mask);
        let mut is_judged = frame.kind == Kind::Close;
        if frame.kind == Kind::Data
            && let Some(message) = &mut self.message
        {
            self.received += length as u64;
            frame.unsent += length as u64;
            is_judged = message.is_text();
            if let Err(violation) = message.feed(payload, &mut pass.toil) {
                self.take_back(pass);
                return Err(violation);
            }
        }
        if frame.kind == Kind::Pong {
            return Ok(frame.left == 0);
        }
        if !self.kept.is_empty() {
            self.kept.extend_from_slice(payload);
            return Ok(frame.left == 0);
        }
        if pass.output.is_empty() {
            // A frame that goes on: its payload can stay where it is.
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
        // A Close frame is short, and kept whatever the buffer.
        let fits = frame.kind == Kind::Close
            || made.len() as u64 + frame.left <= u64::from(self.judged_whole);
        if is_judged && fits && !frame.is_begun {
            self.kept = pass.buffer[made.clone()].to_vec();
            pass.output.end = made.start;
        } else {
            frame.is_begun = true;
            self.sent += std::mem::take(&mut frame.unsent);
        }
        Ok(false)
    }

    /// The current frame is whole.
    fn finish(&mut self, pass: &mut Pass<'_>) -> Result<Option<PeerEnd>, Violation> {
        let frame = self.frame.as_ref().expect("a frame that ends has begun");
        let mut close = None;
        let judged = match frame.kind {
            Kind::Ping | Kind::Pong => Ok(()),
            Kind::Close => {
                let made = &pass.buffer[pass.frame_at..pass.output.end];
                let made = if self.kept.is_empty() { made } else { &self.kept };
                // The header of a control frame has two bytes: its payload is 125 at most.
                judge_close(&made[2..]).map(|code| close = Some(PeerEnd::Close(code)))
            }
            Kind::Data if frame.is_final => {
                self.messages += 1;
                let message = self.message.take().expect("a data frame is part of a message");
                message.finish(&mut pass.toil)
            }
            Kind::Data => Ok(()),
        };
        if judged.is_err() {
            self.take_back(pass);
            return judged.map(|()| None);
        }
        self.sent += frame.unsent;
        self.frame = None;
        if !self.kept.is_empty() {
            pass.released = std::mem::take(&mut self.kept);
        }
        Ok(close)
    }

    /// Sends nothing of the current frame; what an earlier pass has sent of it can't be helped.
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

    /// Judges the next piece of the message; fails fast.
    fn feed(&mut self, payload: &[u8], toil: &mut u64) -> Result<(), Violation> {
        match self {
            Message::Binary => Ok(()),
            Message::Text(utf8) => utf8.feed(payload).map_err(|_| NOT_UTF8),
            Message::CompressedText(text) => {
                *toil += text.0.feed(payload, &mut text.1)?;
                Ok(())
            }
        }
    }

    fn finish(self, toil: &mut u64) -> Result<(), Violation> {
        let utf8 = match self {
            Message::Binary => return Ok(()),
            Message::Text(utf8) => utf8,
            Message::CompressedText(text) => {
                let (mut inflater, mut utf8) = *text;
                *toil += inflater.finish(&mut utf8)?;
                utf8
            }
        };
        if utf8.is_complete() { Ok(()) } else { Err(NOT_UTF8) }
    }
}

const NOT_UTF8: Violation = Violation { code: CloseCode::Invalid, detail: "text is not UTF-8" };

/// A Close frame's payload (section 5.5.1): nothing, or a code and a reason.
fn judge_close(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let violation = |detail| Violation { code: CloseCode::Protocol, detail };
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(violation("half a close code")) };
    };
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { detail: "a close reason is not UTF-8", ..NOT_UTF8 });
    }
    let code = u16::from_be_bytes(*code);
    // Bad Gateway (1014) was registered after tungstenite made its list.
    if CloseCode::from(code).is_allowed() || code == 1014 {
        Ok(Some(code))
    } else {
        Err(violation("a close code that may not be sent"))
    }
}

/// A control frame of ours.
fn control(control: Control, payload: &[u8]) -> Box<[u8]> {
    debug_assert!(payload.len() <= 125, "a control frame has a short length");
    let header = [0x80 | u8::from(OpCode::Control(control)), payload.len() as u8];
    [&header, payload].concat().into()
}
