//! The server's side of a TLS handshake, performed by rustls on bytes that stay ours.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::server::{Accepted, Acceptor, UnbufferedServerConnection};
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};
use tokio_rustls::rustls::{Error, InvalidMessage, ServerConfig};

use super::record;
use super::wire::Wire;

/// Why there is no ClientHello, and the alert that rustls has for that.
pub(super) struct NoHello {
    pub(super) error: io::Error,
    pub(super) alert: Vec<u8>,
}

impl From<io::Error> for NoHello {
    fn from(error: io::Error) -> Self {
        NoHello { error, alert: Vec::new() }
    }
}

/// Reads the ClientHello, and leaves it where it is, for [`accept`] to read it again.
pub(super) async fn read_hello<S>(wire: &mut Wire<S>) -> Result<Accepted, NoHello>
where
    S: AsyncRead + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut shown = 0;
    loop {
        while shown < wire.unread().len() {
            shown += acceptor.read_tls(&mut &wire.unread()[shown..])?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => return Ok(accepted),
                Err((error, mut sent)) => {
                    let mut alert = Vec::new();
                    sent.write_all(&mut alert)?;
                    return Err(NoHello { error: invalid(error), alert });
                }
            }
        }
        read_more(wire).await?;
    }
}

/// Performs the handshake. Afterwards all that is unread is the application's, and all that rustls
/// has to say was sent. If it fails, what is left to send on the wire is the alert.
pub(super) async fn accept<S>(
    wire: &mut Wire<S>,
    config: Arc<ServerConfig>,
) -> io::Result<UnbufferedServerConnection>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut tls = UnbufferedServerConnection::new(config).map_err(invalid)?;
    // What rustls is shown of the unread bytes: one record more, each time that it has seen to all
    // before. So it never sees one that comes behind the handshake.
    let mut shown = 0;
    loop {
        let status = tls.process_tls_records(&mut wire.unread()[..shown]);
        let consumed = status.discard;
        let needs_record = match status.state {
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                wire.queue(&encode(&mut message)?);
                false
            }
            Ok(ConnectionState::TransmitTlsData(queued)) => {
                queued.done();
                false
            }
            Ok(_) => true,
            Err(error) => {
                while tls.wants_write() {
                    let status = tls.process_tls_records(&mut wire.unread()[..shown]);
                    let Ok(ConnectionState::EncodeTlsData(mut alert)) = status.state else { break };
                    wire.queue(&encode(&mut alert)?);
                }
                return Err(invalid(error));
            }
        };
        wire.consume(consumed);
        shown -= consumed;
        if !needs_record {
            continue;
        }
        poll_fn(|cx| wire.poll_flush(cx)).await?;
        if !tls.is_handshaking() {
            return Ok(tls);
        }
        shown += loop {
            let unseen = &wire.unread()[shown..];
            match record::length(unseen) {
                Some(Ok(length)) if length <= unseen.len() => break length,
                // rustls finds that, too, and has the alert.
                Some(Err(_)) => break unseen.len(),
                _ => read_more(wire).await?,
            }
        };
    }
}

/// What rustls has to say.
fn encode<Data>(message: &mut EncodeTlsData<'_, Data>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Err(EncodeError::InsufficientSize(needed)) = message.encode(&mut bytes) {
        bytes.resize(needed.required_size, 0);
        message.encode(&mut bytes).map_err(io::Error::other)?;
    }
    Ok(bytes)
}

async fn read_more<S: AsyncRead + Unpin>(wire: &mut Wire<S>) -> io::Result<()> {
    match poll_fn(|cx| wire.poll_more(cx)).await {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            Err(invalid(InvalidMessage::HandshakePayloadTooLarge.into()))
        }
        Err(error) => Err(error),
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
