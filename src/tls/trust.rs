//! Trust beyond webpki's rules: a certificate that is among the trusted ones itself, byte for byte,
//! and the signatures of certificates that webpki cannot read, such as those of X.509 version 1.
//!
//! webpki takes a certificate with CA:TRUE for a CA only, and `openssl req -x509` makes such ones
//! for servers. openssl and curl accept them if they are trusted.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ExtendedKeyPurpose,
    PeerMisbehaved, SignatureScheme, client,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Certificates that are trusted themselves, and not only what they have issued.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    revoked: Vec<CertificateDer<'static>>,
}

/// What a certificate is presented for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// A server that has this name.
    Server(&'a ServerName<'a>),
    Client,
}

impl Trusted {
    /// All of `certificates`, but those that are in one of `lists`.
    pub(crate) fn new(
        certificates: Vec<CertificateDer<'static>>,
        lists: &[CertificateRevocationListDer<'static>],
    ) -> Trusted {
        if lists.is_empty() {
            return Trusted { certificates, revoked: Vec::new() };
        }
        let lists: Vec<_> = lists
            .iter()
            .filter_map(|list| CertificateRevocationList::from_der(list).ok())
            .map(|(_, list)| list)
            .collect();
        let is_revoked = |certificate: &CertificateDer<'_>| {
            X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
                lists.iter().any(|list| {
                    list.issuer().as_raw() == certificate.issuer().as_raw()
                        && list
                            .iter_revoked_certificates()
                            .any(|revoked| revoked.raw_serial() == certificate.raw_serial())
                })
            })
        };
        let (revoked, certificates) = certificates.into_iter().partition(is_revoked);
        Trusted { certificates, revoked }
    }

    /// Verifies a certificate that webpki has refused with `error`: whether it is one of these, is
    /// valid at this time, and may be used for `purpose`.
    pub(crate) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        purpose: Purpose<'_>,
        now: UnixTime,
        error: Error,
    ) -> Result<(), Error> {
        if self.revoked.contains(certificate) {
            return Err(CertificateError::Revoked.into());
        }
        // A CA above it may be revoked.
        if error == Error::InvalidCertificate(CertificateError::Revoked) {
            return Err(error);
        }
        if !self.certificates.contains(certificate) {
            return Err(error);
        }
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return Err(error) };
        verify_time(&parsed, now)?;
        verify_usage(&parsed, purpose)?;
        match purpose {
            Purpose::Server(name) => verify_name(certificate, &parsed, name),
            Purpose::Client => Ok(()),
        }
    }
}

fn verify_time(certificate: &X509Certificate<'_>, time: UnixTime) -> Result<(), Error> {
    let unix_time = |seconds: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
    };
    let validity = certificate.validity();
    let not_before = unix_time(validity.not_before.timestamp());
    let not_after = unix_time(validity.not_after.timestamp());
    if time < not_before {
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if time > not_after {
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    Ok(())
}

/// Checks the key usage and the extended key usage, and that no critical extension is unknown.
fn verify_usage(certificate: &X509Certificate<'_>, purpose: Purpose<'_>) -> Result<(), Error> {
    let malformed = || Error::from(CertificateError::BadEncoding);
    let usage = certificate.key_usage().map_err(|_| malformed())?;
    let is_for_signatures = usage.is_none_or(|usage| {
        let usage = usage.value;
        let is_client = matches!(purpose, Purpose::Client);
        usage.digital_signature()
            || usage.key_agreement()
            || (usage.key_encipherment() && !is_client)
    });
    let extended = certificate.extended_key_usage().map_err(|_| malformed())?;
    let required = match purpose {
        Purpose::Server(_) => ExtendedKeyPurpose::ServerAuth,
        Purpose::Client => ExtendedKeyPurpose::ClientAuth,
    };
    let is_for_purpose = extended.is_none_or(|extended| {
        let extended = extended.value;
        extended.any
            || match required {
                ExtendedKeyPurpose::ServerAuth => extended.server_auth,
                _ => extended.client_auth,
            }
    });
    if !is_for_signatures || !is_for_purpose {
        return Err(CertificateError::InvalidPurpose.into());
    }
    let is_unknown = |extension: &x509_parser::extensions::X509Extension<'_>| {
        extension.critical && extension.parsed_extension().unsupported()
    };
    if certificate.extensions().iter().any(is_unknown) {
        return Err(CertificateError::UnhandledCriticalExtension.into());
    }
    Ok(())
}

/// Checks the name: the subject alternative names, and in a certificate that has none the common
/// name (RFC 6125 section 6.4.4), as openssl and curl do.
fn verify_name(
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    expected: &ServerName<'_>,
) -> Result<(), Error> {
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let has_alternatives = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names)
        .any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)));
    if has_alternatives {
        return client::verify_server_name(&ParsedCertificate::try_from(certificate)?, expected);
    }
    let names: Vec<&str> =
        parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    let wanted = expected.to_str();
    let matches = |name: &&str| {
        let is_wildcard = match (name.strip_prefix('*'), expected) {
            (Some(suffix), ServerName::DnsName(_)) if suffix.starts_with('.') => {
                wanted.find('.').is_some_and(|dot| wanted[dot..].eq_ignore_ascii_case(suffix))
            }
            _ => false,
        };
        is_wildcard || name.eq_ignore_ascii_case(&wanted)
    };
    if names.iter().any(matches) {
        return Ok(());
    }
    let presented = names.into_iter().map(str::to_owned).collect();
    Err(CertificateError::NotValidForNameContext { expected: expected.to_owned(), presented }
        .into())
}

/// Verifies a handshake's signature in TLS 1.2, whatever version of X.509 the certificate has.
pub(crate) fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls12_signature(message, certificate, signed, algorithms);
    }
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Err(CertificateError::BadEncoding.into());
    };
    let candidates = algorithms.mapping.iter().find(|(scheme, _)| *scheme == signed.scheme);
    let Some((_, candidates)) = candidates else {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    };
    // The scheme of TLS 1.2 does not name the curve, so that there may be several.
    let key = &parsed.public_key().subject_public_key.data;
    let verifies = candidates.iter().any(|algorithm| {
        has_algorithm(&parsed, &algorithm.public_key_alg_id())
            && algorithm.verify_signature(key, message, signed.signature()).is_ok()
    });
    match verifies {
        true => Ok(HandshakeSignatureValid::assertion()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

/// Verifies a handshake's signature in TLS 1.3, whatever version of X.509 the certificate has.
pub(crate) fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if ParsedCertificate::try_from(certificate).is_ok() {
        return verify_tls13_signature(message, certificate, signed, algorithms);
    }
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Err(CertificateError::BadEncoding.into());
    };
    let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}

/// Whether the key of the certificate is of the algorithm whose identifier (without its SEQUENCE)
/// is `id`.
fn has_algorithm(certificate: &X509Certificate<'_>, id: &[u8]) -> bool {
    // SubjectPublicKeyInfo is a SEQUENCE of the AlgorithmIdentifier and the key.
    let parts = super::forms::children(certificate.public_key().raw);
    parts.is_some_and(|parts| parts.first().is_some_and(|algorithm| algorithm.data == id))
}

/// webpki's verifier of clients, which also accepts certificates that are trusted themselves.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) trusted: Trusted,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner.verify_client_cert(end_entity, intermediates, now).or_else(|error| {
            self.trusted.verify(end_entity, Purpose::Client, now, error)?;
            Ok(ClientCertVerified::assertion())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
        RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;

    /// A self-signed certificate with CA:TRUE, as `openssl req -x509` makes it.
    fn own(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        issuer(change).der().clone()
    }

    fn issuer(change: impl FnOnce(&mut CertificateParams)) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "b.test");
        change(&mut params);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn verify(
        trusted: &CertificateDer<'static>,
        shown: &CertificateDer<'_>,
        name: Option<&str>,
    ) -> Result<(), Error> {
        let name = name.map(|name| ServerName::try_from(name).unwrap());
        let purpose = name.as_ref().map_or(Purpose::Client, Purpose::Server);
        let error = CertificateError::UnknownIssuer.into();
        Trusted::new(vec![trusted.clone()], &[]).verify(shown, purpose, UnixTime::now(), error)
    }

    #[test]
    fn a_trusted_certificate_verifies_for_its_name_its_time_and_its_purpose() {
        let plain = own(|_| {});
        assert_eq!(verify(&plain, &plain, Some("a.test")), Ok(()));
        assert_eq!(verify(&plain, &plain, None), Ok(()));
        // The common name does not count beside a subject alternative name.
        assert!(verify(&plain, &plain, Some("b.test")).is_err());
        let other = own(|_| {});
        let unknown = Err(CertificateError::UnknownIssuer.into());
        assert_eq!(verify(&plain, &other, Some("a.test")), unknown);

        let nameless = own(|params| params.subject_alt_names.clear());
        assert_eq!(verify(&nameless, &nameless, Some("B.test")), Ok(()));
        assert!(verify(&nameless, &nameless, Some("a.test")).is_err());
        let wild = own(|params| {
            params.subject_alt_names.clear();
            params.distinguished_name.push(DnType::CommonName, "*.c.test");
        });
        assert_eq!(verify(&wild, &wild, Some("x.c.test")), Ok(()));
        assert!(verify(&wild, &wild, Some("x.y.c.test")).is_err());
        assert!(verify(&wild, &wild, Some("c.test")).is_err());

        let expired = own(|params| params.not_after = date_time_ymd(2020, 1, 1));
        let early = own(|params| params.not_before = date_time_ymd(2100, 1, 1));
        let error = verify(&expired, &expired, Some("a.test")).unwrap_err();
        assert!(format!("{error:?}").contains("ExpiredContext"), "{error:?}");
        let error = verify(&early, &early, Some("a.test")).unwrap_err();
        assert!(format!("{error:?}").contains("NotValidYetContext"), "{error:?}");

        let purpose = Err(CertificateError::InvalidPurpose.into());
        let client = own(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(verify(&client, &client, None), Ok(()));
        assert_eq!(verify(&client, &client, Some("a.test")), purpose);
        let signs_only = own(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
        assert_eq!(verify(&signs_only, &signs_only, None), purpose);
        assert_eq!(verify(&signs_only, &signs_only, Some("a.test")), purpose);
    }

    #[test]
    fn a_trusted_certificate_that_is_revoked_is_not_trusted() {
        let ca = issuer(|params| params.serial_number = Some(SerialNumber::from(7)));
        for (serial, is_revoked) in [(7, true), (8, false)] {
            let list = CertificateRevocationListParams {
                this_update: date_time_ymd(2026, 1, 1),
                next_update: date_time_ymd(2100, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: vec![RevokedCertParams {
                    serial_number: SerialNumber::from(serial),
                    revocation_time: date_time_ymd(2026, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                }],
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let list = list.signed_by(&ca).unwrap().der().clone();
            let trusted = Trusted::new(vec![ca.der().clone()], &[list]);
            let error = CertificateError::UnknownIssuer.into();
            let verified = trusted.verify(ca.der(), Purpose::Client, UnixTime::now(), error);
            assert_eq!(verified.is_err(), is_revoked);
        }
    }
}
