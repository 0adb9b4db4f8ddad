//! rustls as a client of certificates with faults.

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ClientConnection, Connection, Error, HandshakeKind,
    RootCertStore, ServerConnection, SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::config::{Credentials, FaultGroup, Source};
use crate::error::{Credential, CredentialError, Cure};
use crate::tls;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server whose own certificate is good, with the CA that has signed it.
struct Server {
    ca: CertificateDer<'static>,
    good: ServerConfig,
    misissuer: Misissuer,
}

impl Server {
    fn new() -> Self {
        let provider = Arc::new(tls::provider());
        let made = certs::issue(&["good.test".parse().unwrap()], SystemTime::now()).unwrap();
        let ca =
            Credentials::new(Source::memory(&made.ca.certificate), Source::memory(&made.ca.key));
        let own = Credentials::new(
            Source::memory(&made.server.certificate),
            Source::memory(&made.server.key),
        );
        let own = tls::certified(&own, &[], &provider).unwrap();
        let mut good = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS12, &TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Only(Arc::new(own))));
        good.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        let misissuer = misissuer(Some(ca.clone())).unwrap();
        let ca = tls::certified(&ca, &[], &provider).unwrap().cert.remove(0);
        Server { ca, good, misissuer }
    }

    /// The configuration with a certificate for `name`, or for a client that names none.
    fn with(&self, fault: CertificateFault, name: &ServerName<'_>) -> Arc<ServerConfig> {
        let sni = match name {
            ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        };
        self.misissuer.config(fault, sni, &self.good).unwrap()
    }
}

fn misissuer(ca: Option<Credentials>) -> Result<Misissuer, StartError> {
    let policy = FaultPolicy { ca, by_request: true, ..FaultPolicy::default() };
    let made = Misissuer::new(&Reader::default(), &policy, &tls::provider())?;
    Ok(made.expect("faults of certificates are possible"))
}

fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// A clock that does not go.
#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// A client that trusts `root`, and whose clock is a number of days ahead.
fn client(
    root: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    days: i64,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let now = UnixTime::now().as_secs().checked_add_signed(days * 24 * 60 * 60).unwrap();
    let clock = Clock(UnixTime::since_unix_epoch(Duration::from_secs(now)));
    let mut config = ClientConfig::builder_with_details(Arc::new(tls::provider()), Arc::new(clock))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

/// A handshake, and what comes with it, such as tickets: its kind, or the client's error.
fn shake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &ServerName<'static>,
) -> Result<HandshakeKind, Error> {
    let client = ClientConnection::new(Arc::clone(client), name.clone()).unwrap();
    let mut client = Connection::from(client);
    let mut server = Connection::from(ServerConnection::new(Arc::clone(server)).unwrap());
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking());
    Ok(client.handshake_kind().unwrap())
}

/// The name of the error of a certificate, without its particulars.
fn refusal(shaken: Result<HandshakeKind, Error>) -> &'static str {
    match shaken {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => "expired",
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { .. })) => "not yet",
        Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })) => "name",
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => "issuer",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_knows_the_ca_sees_the_fault_and_no_other() {
    let server = Server::new();
    for version in VERSIONS {
        let known = client(&server.ca, version, 0);
        // An address is no SNI.
        for name in ["good.test", "other.example", "localhost", "127.0.0.1", "::1"].map(name) {
            for (fault, expected) in [
                (CertificateFault::Expired, "expired"),
                (CertificateFault::NotYet, "not yet"),
                (CertificateFault::WrongName, "name"),
                (CertificateFault::Untrusted, "issuer"),
                (CertificateFault::Incomplete, "issuer"),
            ] {
                let config = server.with(fault, &name);
                assert_eq!(refusal(shake(&known, &config, &name)), expected, "{fault:?} {name:?}");
            }
            // On the days at which they are valid, the certificates are good.
            for (fault, days) in [(CertificateFault::Expired, -2), (CertificateFault::NotYet, 2)] {
                let then = client(&server.ca, version, days);
                assert!(shake(&then, &server.with(fault, &name), &name).is_ok(), "{fault:?}");
            }
        }
        let wrong = name("wrong-name.invalid");
        let config = server.with(CertificateFault::WrongName, &name("good.test"));
        assert!(shake(&known, &config, &wrong).is_ok());
        let untrusted = server.misissuer.certified(CertificateFault::Untrusted, None).unwrap();
        let who_knows = client(&untrusted.cert[1], version, 0);
        let config = server.with(CertificateFault::Untrusted, &wrong);
        assert!(shake(&who_knows, &config, &wrong).is_ok());
    }
}

#[test]
fn the_intermediate_ca_is_neither_known_nor_sent() {
    let server = Server::new();
    let incomplete = server.misissuer.certified(CertificateFault::Incomplete, None).unwrap();
    assert_eq!(incomplete.cert.len(), 1);
    let (_, certificate) = X509Certificate::from_der(&incomplete.cert[0]).unwrap();
    assert_eq!(certificate.issuer().to_string(), "CN=echo-server intermediate CA");
    // A root need not be sent to those who know it.
    let expired = server.misissuer.certified(CertificateFault::Expired, None).unwrap();
    assert_eq!(expired.cert.len(), 1);
}

#[test]
fn a_ticket_of_a_good_certificate_does_not_hide_a_fault() {
    let server = Server::new();
    let (good, name) = (Arc::new(server.good.clone()), name("good.test"));
    for version in VERSIONS {
        let client = client(&server.ca, version, 0);
        assert_eq!(shake(&client, &good, &name), Ok(HandshakeKind::Full));
        assert_eq!(shake(&client, &good, &name), Ok(HandshakeKind::Resumed));
        let expired = server.with(CertificateFault::Expired, &name);
        assert_eq!(refusal(shake(&client, &expired, &name)), "expired");
    }
}

#[test]
fn a_session_with_a_fault_is_not_resumed() {
    let server = Server::new();
    let (good, name) = (Arc::new(server.good.clone()), name("good.test"));
    for version in VERSIONS {
        let client = client(&server.ca, version, 2);
        let not_yet = server.with(CertificateFault::NotYet, &name);
        for _ in 0..3 {
            assert_eq!(shake(&client, &not_yet, &name), Ok(HandshakeKind::Full));
        }
        assert_eq!(shake(&client, &good, &name), Ok(HandshakeKind::Full));
    }
}

#[test]
fn certificates_are_kept_but_not_many() {
    let misissuer = misissuer(None).unwrap();
    let expired = |name: &str| misissuer.certified(CertificateFault::Expired, Some(name)).unwrap();
    let first = expired("A.test");
    assert!(Arc::ptr_eq(&first, &expired("a.test")));
    let other = misissuer.certified(CertificateFault::NotYet, Some("a.test")).unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    for at in 0..3 * MAX_KEPT {
        expired(&format!("{at}.test"));
    }
    assert_eq!(misissuer.kept.lock().unwrap().len(), MAX_KEPT);
    let again = expired("a.test");
    let serial = |one: &CertifiedKey| {
        let (_, certificate) = X509Certificate::from_der(&one.cert[0]).unwrap();
        certificate.raw_serial().to_vec()
    };
    assert_ne!(serial(&first), serial(&again), "one issuer has one certificate of each number");
}

#[test]
fn what_is_no_name_is_not_in_a_certificate() {
    let misissuer = misissuer(None).unwrap();
    let certified = |name| misissuer.certified(CertificateFault::Expired, name).unwrap();
    assert!(Arc::ptr_eq(&certified(None), &certified(Some("a name"))));
}

#[test]
fn nothing_is_made_without_a_fault_of_a_certificate() {
    let new = |policy: &FaultPolicy| {
        Misissuer::new(&Reader::default(), policy, &tls::provider()).unwrap().is_some()
    };
    let with = |fault| FaultPolicy {
        groups: vec![FaultGroup::everywhere().with(fault)],
        ..FaultPolicy::default()
    };
    assert!(!new(&FaultPolicy::default()));
    assert!(!new(&with(Fault::WsMask)));
    assert!(new(&with(Fault::Certificate(CertificateFault::Untrusted))));
    assert!(new(&FaultPolicy { by_request: true, ..FaultPolicy::default() }));
}

/// A certificate that signs itself, and its key, as PEM.
fn pem(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = CertificateParams::default();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Why this is refused as a CA.
fn refused(certificate: &str, key: &str) -> CredentialError {
    let ca = Credentials::new(Source::memory(certificate), Source::memory(key));
    match misissuer(Some(ca)) {
        Err(StartError::Credential(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_sign_certificates_is_refused() {
    let ca = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let (certificate, key) = pem(ca);
    let other_key = pem(ca).1;
    let leaf = pem(|params| params.is_ca = IsCa::ExplicitNoCa);
    let plain = pem(|_| {});
    let signs_no_certificates = pem(|params| {
        ca(params);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let no_ca = "the certificate is not that of a CA: its basicConstraints lack CA:TRUE";
    for (certificate, key, problem) in [
        (&certificate, &other_key, "not the key of the certificate in in memory"),
        (&certificate, &certificate, "it holds a certificate, and no private key"),
        (&key, &key, "it holds a private key, and no certificate"),
        (&String::new(), &key, "it is empty"),
        (&leaf.0, &leaf.1, no_ca),
        (&plain.0, &plain.1, no_ca),
        (
            &signs_no_certificates.0,
            &signs_no_certificates.1,
            "the CA may not sign certificates: its keyUsage lacks keyCertSign",
        ),
    ] {
        let error = refused(certificate, key);
        assert_eq!(error.credential, Credential::FaultCa);
        assert!(error.problem.starts_with(problem), "{error}");
    }
    assert_eq!(refused(&certificate, &certificate).cure, Some(Cure::NameKey));
    let both = Source::memory(certificate + &key);
    misissuer(Some(Credentials::new(both.clone(), both))).expect("one source may have both");
}

#[test]
fn a_key_of_each_kind_signs() {
    let provider = tls::provider();
    for algorithm in [
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
        &rcgen::PKCS_RSA_SHA256,
    ] {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let ca = params.self_signed(&pair).unwrap();
        let server = Server {
            ca: ca.der().clone(),
            misissuer: misissuer(Some(Credentials::new(
                Source::memory(ca.pem()),
                Source::memory(pair.serialize_pem()),
            )))
            .unwrap(),
            ..Server::new()
        };
        let name = name("good.test");
        let config = server.with(CertificateFault::Expired, &name);
        let client = client(&server.ca, &TLS13, -2);
        assert!(shake(&client, &config, &name).is_ok(), "{algorithm:?}");
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        assert!(provider.key_provider.load_private_key(key).is_ok());
    }
}
