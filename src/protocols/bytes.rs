//! Bytes without framing: the protocols TCP and TLS, which differ in their transport.

use futures::FutureExt;

use crate::connection::{Connection, Handshake, Opened, Opening};
use crate::echo::StreamEcho;
use crate::transport::{Carried, Carrying, Transport};

/// The byte echo over the transport `T`.
#[derive(Debug)]
pub(crate) struct Bytes<T> {
    pub(crate) transport: T,
    /// How many bytes one read may return.
    pub(crate) buffer_size: usize,
}

impl<S, T: Transport<S>> Handshake<S> for Bytes<T> {
    type Echo = StreamEcho<T::Carried>;

    fn begin(&self, stream: S, connection: Connection) -> Opening<Self::Echo> {
        let buffer_size = self.buffer_size;
        match self.transport.carry(stream, connection) {
            Carrying::Done(stream) => {
                Opening::Done(Opened::new(StreamEcho::new(stream, buffer_size), None))
            }
            Carrying::Handshake(carrying) => {
                let opened = move |Carried { stream, client, .. }: Carried<_>| {
                    Opened::new(StreamEcho::new(stream, buffer_size), client)
                };
                Opening::Handshake(carrying.map(move |carried| carried.map(opened)).boxed())
            }
        }
    }
}
