//! What a server did that WebSocket does not allow.

use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};

/// Why an established WebSocket has failed.
pub(crate) fn of_websocket(error: &Error) -> String {
    let how = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => {
            return "the server closed the connection".to_owned();
        }
        Error::Io(error) => return super::system::of_system(error),
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            return format!(
                "the server sent a message of {size} bytes, and the probe takes {max_size} at most"
            );
        }
        Error::Utf8(_) => "text that is not UTF-8 (RFC 6455 section 8.1)",
        Error::Protocol(error) => match error {
            ProtocolError::ResetWithoutClosingHandshake => {
                return "the server closed the connection without a Close frame".to_owned();
            }
            ProtocolError::NonZeroReservedBits => {
                "a frame has reserved bits, as of an extension that was not agreed upon"
            }
            ProtocolError::MaskedFrameFromServer => {
                "masked frame from a server (RFC 6455 section 5.1)"
            }
            ProtocolError::UnknownControlFrameType(_)
            | ProtocolError::UnknownDataFrameType(_)
            | ProtocolError::InvalidOpcode(_) => "a frame has an unknown opcode",
            ProtocolError::FragmentedControlFrame => "a control frame is fragmented",
            ProtocolError::ControlFrameTooBig => "a control frame has more than 125 bytes",
            ProtocolError::UnexpectedContinueFrame => "a fragment continues no message",
            ProtocolError::ExpectedFragment(_) => "a message began within another one",
            ProtocolError::InvalidCloseSequence => "its Close frame is not valid",
            _ => "a frame is not valid (RFC 6455 section 5.2)",
        },
        _ => "a frame is not valid (RFC 6455 section 5.2)",
    };
    format!("the server broke the WebSocket protocol: {how}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_rule_is_named() {
        let said = of_websocket(&Error::Protocol(ProtocolError::UnknownDataFrameType(3)));
        assert_eq!(said, "the server broke the WebSocket protocol: a frame has an unknown opcode");
    }
}
