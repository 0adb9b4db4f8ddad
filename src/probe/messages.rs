//! What a probe sends.

use std::sync::Arc;

use super::{ProbeError, ProbeSetting, Target};
use crate::config::Protocol;

/// The largest payload of a UDP datagram over IPv4: 65,535 bytes less the headers of IP and UDP.
pub(super) const MAX_DATAGRAM_PAYLOAD: usize = 65_507;

/// The messages of a probe. Their contents are random, unless there is [`data`](Messages::data).
///
/// A random message that can hold them begins with 8 bytes (text: 16) that identify its connection
/// and its number. Shorter messages are told apart by their contents and their order only; messages
/// of the same data, by their order only.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Messages {
    /// The payload of each message, in bytes. 64. Over TCP and TLS at least 1, over UDP at most
    /// 65,507. Not used if there is [`data`](Messages::data), to whose size the same limits apply.
    pub size: usize,
    /// The payload of each message. `None`: random bytes. `None`.
    pub data: Option<Arc<[u8]>>,
    /// Whether WebSocket messages are text instead of binary. `false`. Only WebSocket has text.
    pub is_text: bool,
    /// What each message ends with on a byte stream, for services that answer lines; the rest of it
    /// is then printable ASCII. `None`: messages are random bytes. `None`.
    pub line_ending: Option<LineEnding>,
}

/// How a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LineEnding {
    /// LF.
    Lf,
    /// CR LF.
    CrLf,
}

impl LineEnding {
    pub(super) fn bytes(self) -> &'static [u8] {
        match self {
            LineEnding::Lf => b"\n",
            LineEnding::CrLf => b"\r\n",
        }
    }
}

impl Default for Messages {
    fn default() -> Self {
        Messages::new()
    }
}

impl Messages {
    /// Binary messages of 64 bytes.
    pub fn new() -> Self {
        Messages { size: 64, data: None, is_text: false, line_ending: None }
    }

    /// Sets [`Messages::size`], in bytes.
    #[must_use]
    pub fn size(mut self, bytes: usize) -> Self {
        self.size = bytes;
        self
    }

    /// Sets [`Messages::data`].
    #[must_use]
    pub fn data(mut self, data: impl Into<Arc<[u8]>>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Sets [`Messages::is_text`].
    #[must_use]
    pub fn text(mut self) -> Self {
        self.is_text = true;
        self
    }

    /// Sets [`Messages::line_ending`].
    #[must_use]
    pub fn lines(mut self, ending: LineEnding) -> Self {
        self.line_ending = Some(ending);
        self
    }

    /// How many bytes a message has.
    pub(super) fn bytes(&self) -> usize {
        self.data.as_ref().map_or(self.size, |data| data.len())
    }

    /// Refuses messages that `target` cannot carry.
    pub(super) fn check(&self, target: &Target) -> Result<(), ProbeError> {
        let size = self.bytes();
        let setting = match self.data {
            Some(_) => ProbeSetting::Data,
            None => ProbeSetting::Size,
        };
        match target.protocol() {
            Protocol::Tcp | Protocol::Tls if size == 0 => {
                Err(ProbeError::setting(setting, "a byte stream has no messages of 0 bytes"))
            }
            Protocol::Udp if size > MAX_DATAGRAM_PAYLOAD => Err(ProbeError::setting(
                setting,
                format!("{size} bytes are too many: a datagram carries {MAX_DATAGRAM_PAYLOAD}"),
            )),
            Protocol::Udp | Protocol::Ws | Protocol::Wss if self.line_ending.is_some() => {
                Err(ProbeError::setting(
                    ProbeSetting::Lines,
                    "only a byte stream is divided into lines",
                ))
            }
            Protocol::Tcp | Protocol::Tls
                if self.line_ending.is_some_and(|ending| size < ending.bytes().len()) =>
            {
                let problem = "a line is not shorter than its ending";
                Err(ProbeError::setting(ProbeSetting::Size, problem))
            }
            Protocol::Tcp | Protocol::Tls | Protocol::Udp if self.is_text => {
                Err(ProbeError::setting(ProbeSetting::Text, "only WebSocket has text messages"))
            }
            _ if self.is_text
                && self.data.as_ref().is_some_and(|data| std::str::from_utf8(data).is_err()) =>
            {
                Err(ProbeError::setting(ProbeSetting::Data, "a text message has to be UTF-8"))
            }
            _ => Ok(()),
        }
    }
}
