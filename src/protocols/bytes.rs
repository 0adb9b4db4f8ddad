//! Bytes without framing: the protocols TCP and TLS, which differ in their transport.

use futures::FutureExt;

use crate::connection::{Connection, Handshake, Incoming, Opened, Opening};
use crate::echo::StreamEcho;
use crate::facts::Seen;
use crate::faults::Misbehaving;
use crate::net::Stream;
use crate::transport::{Carried, Carrying, Transport};

/// The byte echo over the transport `T`.
#[derive(Debug)]
pub(crate) struct Bytes<T> {
    pub(crate) transport: T,
    /// How many bytes one read may return.
    pub(crate) buffer_size: usize,
    /// Whether each client is told first what the server saw of it.
    pub(crate) shows_facts: bool,
}

impl<S: Stream, T: Transport<S>> Handshake<S> for Bytes<T> {
    type Echo = StreamEcho<T::Carried>;

    fn begin(&self, mut incoming: Incoming<S>, connection: Connection) -> Opening<Self::Echo> {
        let buffer_size = self.buffer_size;
        let seen = self.shows_facts.then(|| Seen::of(&mut incoming, connection));
        match self.transport.carry(incoming, connection) {
            Carrying::Done(stream, early) => {
                let planned = stream.planned();
                let mut echo = StreamEcho::new(stream, buffer_size);
                if let Some(seen) = seen {
                    echo = echo.with_greeting(line(&seen.with_faults(planned)));
                }
                Opening::Done(Opened::new(echo.with_early_input(early), None))
            }
            Carrying::Handshake(carrying) => {
                let opened = move |carried: Carried<T::Carried>| {
                    let Carried { stream, client, tls, .. } = carried;
                    let planned = stream.planned();
                    let mut echo = StreamEcho::new(stream, buffer_size);
                    if let Some(seen) = seen {
                        let seen = seen.over_tls(tls).with_faults(planned);
                        echo = echo.with_greeting(line(&seen));
                    }
                    Opened::new(echo, client)
                };
                Opening::Handshake(carrying.map(move |carried| carried.map(opened)).boxed())
            }
        }
    }
}

/// The facts as the line with which a stream begins.
fn line(seen: &Seen) -> Vec<u8> {
    let mut line = seen.to_json(None);
    line.push('\n');
    line.into_bytes()
}
