//! Starts the services: puts protocol, transport and listener together.

use std::sync::Arc;

use super::accept::Acceptor;
use super::placement::Workers;
use crate::config::{Config, Protocol};
use crate::connection::{Handshake, Sessions};
use crate::net::Listener;
use crate::protocols::bytes::Bytes;
use crate::protocols::proxied::Proxied;
use crate::protocols::ws::{Answers, Settings, WebSocket};
use crate::tls::TlsSettings;
use crate::transport::{Plain, Tls};

/// What is spoken on a listener's streams, and over which transport.
#[derive(Debug, Clone)]
pub(super) enum Service {
    Bytes(TransportConfig),
    WebSocket(TransportConfig),
}

/// A transport and its settings.
#[derive(Debug, Clone)]
pub(super) enum TransportConfig {
    Plain,
    Tls(Arc<TlsSettings>),
}

/// What every service needs to start.
pub(super) struct Starter {
    pub(super) config: Config,
    pub(super) sessions: Arc<Sessions>,
    pub(super) workers: Arc<Workers>,
}

impl Starter {
    /// Starts `service` on `listener`.
    pub(super) fn serve<L: Listener>(&self, protocol: Protocol, listener: L, service: Service) {
        let buffer_size = self.config.buffer_size;
        let shows_facts = self.config.facts.contains(&protocol);
        let tls = |settings, is_for_http| {
            let counts = self.sessions.counts().cloned();
            Tls::new(settings, is_for_http, shows_facts, Arc::clone(&self.sessions.log), counts)
        };
        let settings = || Settings {
            answers: Answers::new(&self.config.websocket),
            buffer_size,
            shows_facts,
            sessions: Arc::clone(&self.sessions),
        };
        match service {
            Service::Bytes(TransportConfig::Plain) => {
                let transport = Plain;
                self.accept(protocol, listener, Bytes { transport, buffer_size, shows_facts });
            }
            Service::Bytes(TransportConfig::Tls(tls_settings)) => {
                let transport = tls(tls_settings, false);
                self.accept(protocol, listener, Bytes { transport, buffer_size, shows_facts });
            }
            Service::WebSocket(TransportConfig::Plain) => {
                let handshake = WebSocket { transport: Plain, settings: settings() };
                self.accept(protocol, listener, handshake);
            }
            Service::WebSocket(TransportConfig::Tls(tls_settings)) => {
                let transport = tls(tls_settings, true);
                self.accept(protocol, listener, WebSocket { transport, settings: settings() });
            }
        }
    }

    /// Accepts connections, behind PROXY headers where those are expected.
    fn accept<L, H>(&self, protocol: Protocol, listener: L, handshake: H)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        if !self.config.proxy.protocols.contains(&protocol) {
            return self.accept_by(protocol, listener, handshake);
        }
        let from = self.config.proxy.from.as_slice().into();
        let proxied = Proxied::new(handshake, from, Arc::clone(&self.sessions.log));
        self.accept_by(protocol, listener, proxied);
    }

    fn accept_by<L, H>(&self, protocol: Protocol, listener: L, handshake: H)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        // Join before the task is first polled, so that a drain that starts earlier waits for it.
        let member = self.sessions.drain.join();
        let (sessions, workers) = (Arc::clone(&self.sessions), Arc::clone(&self.workers));
        let acceptor = Acceptor { protocol, handshake, sessions, workers };
        tokio::spawn(acceptor.run(listener, member));
    }
}
