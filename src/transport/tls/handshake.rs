//! The server's side of a TLS handshake, performed by rustls on bytes that stay ours.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::server::{Accepted, Acceptor, UnbufferedServerConnection};
use tokio_rustls::rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};
use tokio_rustls::rustls::{ContentType, Error, InvalidMessage, ServerConfig};

use super::record;
use super::wire::Wire;
use crate::connection::costly::in_turn;

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
///
/// The ClientHello costs a signature, one behind a HelloRetryRequest does so, too, and the client's
/// certificate costs the check of several: up to a millisecond each. So rustls is shown each record
/// in a turn.
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
    while tls.is_handshaking() {
        shown += next_record(wire, shown).await?;
        in_turn(|cx| {
            answer(&mut tls, wire, &mut shown)?;
            // Behind the handshake it is the application's.
            if tls.is_handshaking() && wire.has_unsent() && shown == 0 {
                skip_early(&mut tls, wire)?;
            }
            match wire.poll_flush(cx) {
                Poll::Ready(flushed) => flushed,
                Poll::Pending => Ok(()),
            }
        })
        .await?;
        poll_fn(|cx| wire.poll_flush(cx)).await?;
    }
    Ok(tls)
}

/// The length of the record behind the `shown` bytes, once all of it is there.
async fn next_record<S>(wire: &mut Wire<S>, shown: usize) -> io::Result<usize>
where
    S: AsyncRead + Unpin,
{
    loop {
        let unseen = &mut wire.unread()[shown..];
        match record::length(unseen) {
            Some(Ok(length)) if length <= unseen.len() => return Ok(length),
            Some(Err(_)) => {
                // rustls finds that, too, and has the alert. But it knows heartbeats, and what it
                // can decrypt may look like one.
                if ContentType::from(unseen[0]) == ContentType::Heartbeat {
                    unseen[0] = u8::MAX;
                }
                return Ok(unseen.len());
            }
            _ => read_more(wire).await?,
        }
    }
}

/// Has rustls see to the `shown` bytes, of which less is left then, and queues what it has to say.
fn answer<S>(
    tls: &mut UnbufferedServerConnection,
    wire: &mut Wire<S>,
    shown: &mut usize,
) -> io::Result<()> {
    loop {
        let status = tls.process_tls_records(&mut wire.unread()[..*shown]);
        let consumed = status.discard;
        let is_done = match status.state {
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
                    let status = tls.process_tls_records(&mut wire.unread()[..*shown]);
                    let Ok(ConnectionState::EncodeTlsData(mut alert)) = status.state else { break };
                    wire.queue(&encode(&mut alert)?);
                }
                return Err(invalid(error));
            }
        };
        wire.consume(consumed);
        *shown -= consumed;
        if is_done {
            return Ok(());
        }
    }
}

/// Skips early data (RFC 8446 section 4.2.10), which is never accepted: what has come before our
/// answer has left can be nothing else, apart from a ChangeCipherSpec. rustls counts what it skips,
/// and counts it again each time that it is shown it. So it is shown all of it at once, and once.
fn skip_early<S>(tls: &mut UnbufferedServerConnection, wire: &mut Wire<S>) -> io::Result<()> {
    let unread = wire.unread();
    let mut early = 0;
    while let Some(Ok(length)) = record::length(&unread[early..])
        && early + length <= unread.len()
        && matches!(
            ContentType::from(unread[early]),
            ContentType::ApplicationData | ContentType::ChangeCipherSpec
        )
    {
        early += length;
    }
    answer(tls, wire, &mut early)?;
    wire.consume(early);
    Ok(())
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
