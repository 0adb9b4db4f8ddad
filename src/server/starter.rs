//! Starts the services: puts protocol, transport and listener together.

use std::sync::Arc;

use super::accept::Acceptor;
use super::placement::Workers;
use crate::config::{Config, Protocol};
use crate::connection::{Handshake, Sessions};
use crate::faults::Faults;
use crate::net::Listener;
use crate::protocols::bytes::Bytes;
use crate::protocols::proxied::Proxied;
use crate::protocols::ws::{Answers, Settings, WebSocket};
use crate::tls::TlsSettings;
use crate::transport::{Plain, Tls, Transport, WithFaults};

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
    /// What the server does wrong on purpose, if it does.
    pub(super) faults: Option<Arc<Faults>>,
}

impl Starter {
    /// Starts `service` on `listener`.
    pub(super) fn serve<L: Listener>(&self, protocol: Protocol, listener: L, service: Service) {
        let (Service::Bytes(transport) | Service::WebSocket(transport)) = &service;
        let is_for_http = matches!(service, Service::WebSocket(_));
        match transport {
            TransportConfig::Plain => self.carry(protocol, listener, Plain, is_for_http),
            TransportConfig::Tls(settings) => {
                let transport = self.tls(protocol, settings, is_for_http);
                self.carry(protocol, listener, transport, is_for_http);
            }
        }
    }

    fn tls(&self, protocol: Protocol, settings: &Arc<TlsSettings>, is_for_http: bool) -> Tls {
        let shows_facts = self.config.facts.contains(&protocol);
        Tls::new(
            Arc::clone(settings),
            is_for_http,
            shows_facts,
            &self.sessions,
            self.faults(protocol),
        )
    }

    /// What is done wrong on purpose on `protocol`.
    fn faults(&self, protocol: Protocol) -> Option<Arc<Faults>> {
        self.faults.clone().filter(|faults| faults.concern(protocol))
    }

    /// Speaks the protocol over `transport`. With faults that is another type, so that a server
    /// without does not look for them.
    fn carry<L, T>(&self, protocol: Protocol, listener: L, transport: T, is_for_http: bool)
    where
        L: Listener,
        T: Transport<L::Stream>,
    {
        match self.faults(protocol) {
            None => self.speak(protocol, listener, transport, is_for_http),
            Some(faults) => {
                let sessions = Arc::clone(&self.sessions);
                let transport = WithFaults::new(transport, faults, sessions, is_for_http);
                self.speak(protocol, listener, transport, is_for_http);
            }
        }
    }

    fn speak<L, T>(&self, protocol: Protocol, listener: L, transport: T, is_for_http: bool)
    where
        L: Listener,
        T: Transport<L::Stream>,
    {
        let buffer_size = self.config.buffer_size;
        let shows_facts = self.config.facts.contains(&protocol);
        if !is_for_http {
            return self.accept(protocol, listener, Bytes { transport, buffer_size, shows_facts });
        }
        let shown = self.faults(protocol).map(|faults| faults.shown(protocol));
        let settings = Settings {
            answers: Answers::new(&self.config.websocket, shown),
            buffer_size,
            shows_facts,
            sessions: Arc::clone(&self.sessions),
            faults: self.faults(protocol),
        };
        self.accept(protocol, listener, WebSocket { transport, settings });
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
