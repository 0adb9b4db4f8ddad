//! What the server saw of a connection.

use std::time::SystemTime;

use super::object::Object;
use super::{HttpSeen, TlsSeen, VERSION, proxy};
use crate::connection::{Connection, Incoming, Proxy};
use crate::net::{SocketFacts, Stream};

/// What the server saw of a connection.
#[derive(Debug)]
pub(crate) struct Seen {
    connection: Connection,
    socket: SocketFacts,
    proxy: Option<Box<Proxy>>,
    /// As JSON: an HTTP/2 connection tells it once for each stream.
    tls: Option<String>,
    /// What is done wrong on purpose.
    faults: Option<String>,
}

impl Seen {
    /// What is to be seen of a connection before its handshake. It takes the PROXY header.
    pub(crate) fn of<S: Stream>(incoming: &mut Incoming<S>, connection: Connection) -> Self {
        let socket = incoming.stream.facts();
        Seen { connection, socket, proxy: incoming.proxy.take(), tls: None, faults: None }
    }

    /// The same, with what the TLS handshake showed.
    pub(crate) fn over_tls(self, tls: Option<Box<TlsSeen>>) -> Self {
        Seen { tls: tls.map(|tls| tls.to_json()), ..self }
    }

    /// The same, with what is done wrong on purpose.
    pub(crate) fn with_faults(self, faults: Option<String>) -> Self {
        Seen { faults, ..self }
    }

    /// One line of JSON, without its end. `http` is the request.
    pub(crate) fn to_json(&self, http: Option<&HttpSeen>) -> String {
        self.to_json_of(self.connection, self.faults.as_deref(), http)
    }

    /// The same of another connection that this one carries: an HTTP/2 stream.
    pub(crate) fn to_json_of(
        &self,
        connection: Connection,
        faults: Option<&str>,
        http: Option<&HttpSeen>,
    ) -> String {
        let Connection { protocol, number, peer, .. } = connection;
        // humantime panics at a time before 1970, which a clock that was never set may show.
        let now = SystemTime::now().max(SystemTime::UNIX_EPOCH);
        let mut facts = Object::new();
        facts.put("echo_facts", VERSION);
        facts.put("protocol", protocol.name());
        facts.put("connection", number);
        facts.put("time", humantime::format_rfc3339_micros(now).to_string());
        facts.put("peer", proxy::address(peer));
        if let Some(uid) = peer.uid() {
            let mut unix = Object::new();
            unix.put("uid", uid);
            unix.put_some("pid", &peer.pid());
            facts.put_written("unix", &unix.end());
        }
        facts.put_some("local", &self.socket.local.as_ref().map(ToString::to_string));
        facts.put_some("faults", &faults);
        if let Some(proxy) = &self.proxy {
            facts.put_written("proxy", &proxy::to_json(proxy));
        }
        if let Some(tls) = &self.tls {
            facts.put_written("tls", tls);
        }
        if let Some(http) = http {
            facts.put_written("http", &http.to_json());
        }
        if let Some(mss) = self.socket.mss {
            let mut tcp = Object::new();
            tcp.put("mss", mss);
            facts.put_written("tcp", &tcp.end());
        }
        facts.end()
    }
}
