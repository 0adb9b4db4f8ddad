//! Faults on purpose of the TLS handshake.

use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::{AlertDescription, ServerConfig};

use super::wire::Wire;
use super::{Offer, Tls, failed, fatal_alert};
use crate::config::{CertificateFault, Fault, HandshakeFault};
use crate::connection::costly::in_turn;
use crate::connection::{Connection, End, Refused};
use crate::echo::LowerStream;
use crate::faults::{Faults, Plan, of_server_name};
use crate::net::Stream;
use crate::transport::{self, http_response};

/// How many random bytes are sent in the place of a ServerHello.
const GARBAGE: usize = 512;

/// The faults of a handshake.
pub(super) struct Misbehaviour {
    /// All of them.
    pub(super) plan: Plan,
    /// Those that the client has asked for, by the name of the server.
    pub(super) asked: Plan,
}

impl Tls {
    /// What is done wrong in the handshake of a client with this `offer`. What can be done before
    /// the ServerHello, is done.
    pub(super) fn misbehave<S: Stream>(
        &self,
        faults: &Faults,
        wire: Wire<S>,
        connection: Connection,
        offer: &Offer,
    ) -> Result<(Wire<S>, Misbehaviour), Refused> {
        let asked = match (faults.by_request(), &offer.sni) {
            (Some(most), Some(name)) => of_server_name(name, connection.protocol, most),
            _ => Ok(Plan::default()),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(error) => {
                let sni = offer.sni.as_deref().unwrap_or_default();
                let end = failed(format!("the server name asks for a fault; {error} (SNI {sni})"));
                let alert = fatal_alert(AlertDescription::UnrecognisedName);
                return Err(transport::refuse(wire.into_parts().0, end, alert.into()));
            }
        };
        let mut plan = faults.plan(&connection);
        plan.extend(asked.faults());
        let Some(fault) = plan.handshake() else { return Ok((wire, Misbehaviour { plan, asked })) };
        faults.count(connection.protocol, Fault::Handshake(fault).name(), 1);
        Err(self.end_handshake(faults, wire, connection, fault))
    }

    /// The configuration `config`, but with a certificate that has this fault. It is to be used.
    pub(super) async fn misissue(
        &self,
        fault: CertificateFault,
        connection: Connection,
        offer: &Offer,
        config: &ServerConfig,
    ) -> io::Result<Arc<ServerConfig>> {
        if let Some(faults) = &self.faults {
            faults.count(connection.protocol, Fault::Certificate(fault).name(), 1);
        }
        // An RSA key of a CA takes as long to sign as one of a server.
        in_turn(|_| self.settings.misissued(fault, offer.sni.as_deref(), config)).await
    }

    /// Does `fault` in the place of a ServerHello.
    fn end_handshake<S: Stream>(
        &self,
        faults: &Faults,
        wire: Wire<S>,
        connection: Connection,
        fault: HandshakeFault,
    ) -> Refused {
        let end = End::OnPurpose(format!("on purpose in the place of a ServerHello: {fault}"));
        let (mut stream, _) = wire.into_parts();
        match fault {
            HandshakeFault::Stall => transport::hold(stream, end, &self.sessions),
            HandshakeFault::Reset => {
                LowerStream::reset_on_drop(&mut stream);
                end.into()
            }
            HandshakeFault::Garbage => {
                let chance = faults.chance(connection.protocol, connection.number);
                let mut garbage = chance.about("garbage").bytes(GARBAGE);
                // No record begins like this, whatever chance says (RFC 8446 section 5.1).
                garbage[0] |= 0x80;
                transport::refuse(stream, end, garbage)
            }
            HandshakeFault::Plain => {
                let text = "This server speaks plain HTTP here. It is a fault on purpose.";
                transport::refuse(stream, end, http_response("400 Bad Request", text))
            }
            HandshakeFault::Alert(code) => {
                transport::refuse(stream, end, fatal_alert(AlertDescription::from(code)).into())
            }
        }
    }
}
