//! A client's frame header (RFC 6455 section 5.2), judged byte by byte as it comes.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::Violation;

/// The longest header of a client: two bytes, the longest length, the masking key.
pub(super) const MAX: usize = 2 + 8 + 4;

/// A payload length of 126 says that 16 bits of length follow, 127 that 64 do.
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// What a frame may be, given what came before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// A fragmented message is under way.
    pub(super) continuation: bool,
    /// permessage-deflate was agreed upon (RFC 7692 section 6).
    pub(super) compression: bool,
}

/// A whole header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) frame: FrameHeader,
    pub(super) mask: [u8; 4],
    /// Bytes of payload.
    pub(super) payload: u64,
    /// Bytes of header.
    pub(super) length: usize,
}

/// Reads the header that `bytes` begin with. `None`: so far it is right, and there is more to come.
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
    // The most significant bit of the 64 must be 0.
    if short == LENGTH_64 && bytes.get(2).is_some_and(|byte| byte & 0x80 != 0) {
        return Err(protocol("a frame is longer than 63 bits can say"));
    }
    let mut cursor = Cursor::new(bytes);
    // What it could refuse is refused above.
    let Ok(Some((frame, payload))) = FrameHeader::parse(&mut cursor) else { return Ok(None) };
    if (short == LENGTH_16 && payload < 126) || (short == LENGTH_64 && payload < 1 << 16) {
        return Err(protocol("a length is not encoded in the fewest bytes"));
    }
    let mask = frame.mask.expect("the mask bit is set");
    Ok(Some(Header { frame, mask, payload, length: cursor.position() as usize }))
}

/// FIN, the reserved bits and the opcode.
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
