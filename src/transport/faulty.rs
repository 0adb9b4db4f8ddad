//! A transport whose streams misbehave on purpose.

use std::sync::Arc;

use futures::FutureExt;

use super::{Carried, Carrying, Transport};
use crate::connection::{Connection, Incoming, Sessions};
use crate::faults::{Faults, Faulty, Plan};
use crate::net::Stream;

/// The transport `inner`, on which streams misbehave.
pub(crate) struct WithFaults<T> {
    inner: T,
    faults: Arc<Faults>,
    sessions: Arc<Sessions>,
    /// Whether HTTP runs over it, which tells when faults begin.
    is_for_http: bool,
}

impl<T> WithFaults<T> {
    pub(crate) fn new(
        inner: T,
        faults: Arc<Faults>,
        sessions: Arc<Sessions>,
        is_for_http: bool,
    ) -> Self {
        WithFaults { inner, faults, sessions, is_for_http }
    }
}

impl<S: Stream, T: Transport<S>> Transport<S> for WithFaults<T> {
    type Carried = Faulty<T::Carried>;

    fn carry(&self, incoming: Incoming<S>, connection: Connection) -> Carrying<Self::Carried> {
        let (faults, sessions) = (Arc::clone(&self.faults), Arc::clone(&self.sessions));
        let is_for_http = self.is_for_http;
        let plan = faults.plan(&connection);
        let wrap = move |stream, asked: Option<&Plan>| {
            let mut plan = plan;
            plan.extend(asked.map_or(&[], Plan::faults));
            Faulty::new(stream, plan, &faults, &sessions, connection, is_for_http)
        };
        match self.inner.carry(incoming, connection) {
            Carrying::Done(stream, early) => Carrying::Done(wrap(stream, None), early),
            Carrying::Handshake(carrying) => {
                let carried = |carried: Carried<T::Carried>| {
                    let Carried { stream, client, alpn, tls, asked } = carried;
                    let stream = wrap(stream, asked.as_deref());
                    Carried { stream, client, alpn, tls, asked: None }
                };
                Carrying::Handshake(carrying.map(|result| result.map(carried)).boxed())
            }
        }
    }
}
