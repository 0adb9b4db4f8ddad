//! A client's frame header (RFC 6455 section 5.2), validated byte by byte as it comes.

use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::Violation;

/// The longest header of a client's frame: two bytes, a 64-bit length, the masking key.
pub(super) const MAX: usize = 2 + 8 + 4;

/// A 7-bit length of 126 says that a 16-bit length follows, 127 that a 64-bit one does.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// Which frames are allowed next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// A fragmented message is not complete.
    pub(super) continuation: bool,
    /// permessage-deflate was negotiated (RFC 7692 section 6).
    pub(super) compression: bool,
}

/// A complete header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    /// FIN, the reserved bits and the opcode, as they came.
    first: u8,
    pub(super) mask: [u8; 4],
    /// Bytes of payload.
    pub(super) payload: u64,
    /// Bytes of header.
    pub(super) length: usize,
}

impl Header {
    pub(super) fn is_final(&self) -> bool {
        self.first & 0x80 != 0
    }

    /// Whether the frame begins a compressed message, if compression was negotiated.
    pub(super) fn is_compressed(&self) -> bool {
        self.first & 0x40 != 0
    }

    pub(super) fn opcode(&self) -> OpCode {
        OpCode::from(self.first & 0x0F)
    }

    /// The length of the header of the frame's echo, which has no masking key.
    pub(super) fn echo_length(&self) -> usize {
        self.length - 4
    }

    /// Writes the header of the frame's echo to `place`, which has its length. The echo of a Ping
    /// is a Pong.
    pub(super) fn write_echo(&self, place: &mut [u8]) {
        let is_ping = self.first & 0x0F == u8::from(OpCode::Control(Control::Ping));
        let pong = u8::from(OpCode::Control(Control::Pong));
        place[0] = if is_ping { self.first & 0xF0 | pong } else { self.first };
        match place {
            [_, short] => *short = self.payload as u8,
            [_, short, long @ ..] if long.len() == 2 => {
                *short = LENGTH_16;
                long.copy_from_slice(&(self.payload as u16).to_be_bytes());
            }
            [_, short, long @ ..] => {
                *short = LENGTH_64;
                long.copy_from_slice(&self.payload.to_be_bytes());
            }
            _ => unreachable!("a header has two bytes at least"),
        }
    }
}

/// Parses the header that `bytes` begin with. Returns `None` if it is valid so far, but incomplete.
pub(super) fn parse(bytes: &[u8], expected: Expected) -> Result<Option<Header>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    check_first(first, expected)?;
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    if second & 0x80 == 0 {
        return Err(protocol("a frame is not masked"));
    }
    let short = second & 0x7F;
    if first & 0x08 != 0 && short > 125 {
        return Err(protocol("a control frame is longer than 125 bytes"));
    }
    let rest = &bytes[2..];
    let (payload, masked) = match short {
        LENGTH_16 => {
            let Some((length, masked)) = rest.split_first_chunk() else { return Ok(None) };
            let payload = u16::from_be_bytes(*length);
            if payload < 126 {
                return Err(protocol("a length is not encoded in the fewest bytes"));
            }
            (u64::from(payload), masked)
        }
        LENGTH_64 => {
            // The most significant bit of the 64 must be 0.
            if rest.first().is_some_and(|byte| byte & 0x80 != 0) {
                return Err(protocol("a frame is longer than 63 bits can say"));
            }
            let Some((length, masked)) = rest.split_first_chunk() else { return Ok(None) };
            let payload = u64::from_be_bytes(*length);
            if payload < 1 << 16 {
                return Err(protocol("a length is not encoded in the fewest bytes"));
            }
            (payload, masked)
        }
        _ => (u64::from(short), rest),
    };
    let Some((mask, behind)) = masked.split_first_chunk() else { return Ok(None) };
    Ok(Some(Header { first, mask: *mask, payload, length: bytes.len() - behind.len() }))
}

/// Validates FIN, the reserved bits and the opcode.
fn check_first(first: u8, expected: Expected) -> Result<(), Violation> {
    let is_final = first & 0x80 != 0;
    let opcode = OpCode::from(first & 0x0F);
    let compressible = matches!(opcode, OpCode::Data(Data::Text | Data::Binary));
    let allowed = if expected.compression && compressible { 0x40 } else { 0 };
    if first & 0x70 & !allowed != 0 {
        return Err(protocol("a reserved bit is set"));
    }
    match opcode {
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            Err(protocol("an opcode is reserved"))
        }
        OpCode::Control(_) if !is_final => Err(protocol("a control frame is fragmented")),
        OpCode::Data(Data::Continue) if !expected.continuation => {
            Err(protocol("a continuation has nothing to continue"))
        }
        OpCode::Data(Data::Text | Data::Binary) if expected.continuation => {
            Err(protocol("a message begins inside another"))
        }
        _ => Ok(()),
    }
}

fn protocol(detail: &'static str) -> Violation {
    Violation { code: CloseCode::Protocol, detail }
}
