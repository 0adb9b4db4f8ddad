//! What the server saw of a connection.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{HttpSeen, TlsSeen, VERSION};
use crate::connection::{Connection, Incoming, Proxy};
use crate::net::{SocketFacts, Stream};

/// What the server saw of a connection.
#[derive(Debug)]
pub(crate) struct Seen {
    connection: Connection,
    socket: SocketFacts,
    proxy: Option<Box<Proxy>>,
    tls: Option<Box<TlsSeen>>,
}

impl Seen {
    /// What is to be seen of a connection before its handshake. It takes the PROXY header.
    pub(crate) fn of<S: Stream>(incoming: &mut Incoming<S>, connection: Connection) -> Self {
        let socket = incoming.stream.facts();
        Seen { connection, socket, proxy: incoming.proxy.take(), tls: None }
    }

    /// The same, with what the TLS handshake showed.
    pub(crate) fn over_tls(self, tls: Option<Box<TlsSeen>>) -> Self {
        Seen { tls, ..self }
    }

    /// The facts of another connection that this one carries: an HTTP/2 stream.
    pub(crate) fn to_json_of(&self, connection: Connection, http: &HttpSeen) -> String {
        self.write(connection, Some(http))
    }

    /// One line of JSON, without its end. `http` is the request.
    pub(crate) fn to_json(&self, http: Option<&HttpSeen>) -> String {
        self.write(self.connection, http)
    }

    fn write(&self, connection: Connection, http: Option<&HttpSeen>) -> String {
        let Connection { protocol, number, peer, .. } = connection;
        let mut facts = Map::new();
        let mut put = |key: &str, value: Value| facts.insert(key.to_owned(), value);
        put("echo_facts", json!(VERSION));
        put("door", json!(protocol.name()));
        put("connection", json!(number));
        put("time", json!(humantime::format_rfc3339_micros(SystemTime::now()).to_string()));
        match peer.uid() {
            None => put("peer", json!(peer.to_string())),
            Some(uid) => {
                let mut unix = Map::from_iter([("uid".to_owned(), json!(uid))]);
                if let Some(pid) = peer.pid() {
                    unix.insert("pid".to_owned(), json!(pid));
                }
                put("unix", unix.into());
                put("peer", json!("unix"))
            }
        };
        if let Some(local) = &self.socket.local {
            put("local", json!(local.to_string()));
        }
        if let Some(proxy) = &self.proxy {
            let from = match proxy.peer.uid() {
                None => proxy.peer.to_string(),
                Some(_) => "unix".to_owned(),
            };
            put("proxy", proxy.header.to_json(&from));
        }
        if let Some(tls) = &self.tls {
            put("tls", tls.to_json());
        }
        if let Some(http) = http {
            put("http", http.to_json());
        }
        if let Some(mss) = self.socket.mss {
            put("tcp", json!({ "mss": mss }));
        }
        Value::from(facts).to_string()
    }
}
