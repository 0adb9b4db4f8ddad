//! The order of a certificate chain, and whether a key is a certificate's. Both look at the
//! certificates with x509-parser, since webpki reads only those of X.509 version 3.

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::sign::SigningKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Puts the certificate of `key` first, behind it the issuer of each, and behind those what is left,
/// in its order. `None` if no certificate is the key's.
pub(super) fn in_order(
    mut chain: Vec<CertificateDer<'static>>,
    key: &dyn SigningKey,
) -> Option<Vec<CertificateDer<'static>>> {
    let leaf = chain.iter().position(|certificate| belongs_to(key, certificate))?;
    let mut ordered = vec![chain.remove(leaf)];
    while let Some(next) = chain.iter().position(|one| has_issued(one, &ordered[ordered.len() - 1]))
    {
        ordered.push(chain.remove(next));
    }
    ordered.append(&mut chain);
    Some(ordered)
}

/// Whether `issuer` is another certificate whose subject is the issuer of `certificate`.
fn has_issued(issuer: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let (Ok((_, issuer)), Ok((_, certificate))) =
        (X509Certificate::from_der(issuer), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    let is_self_issued = certificate.subject().as_raw() == certificate.issuer().as_raw();
    !is_self_issued && issuer.subject().as_raw() == certificate.issuer().as_raw()
}

/// Whether `key` is the private key of `certificate`.
pub(super) fn belongs_to(key: &dyn SigningKey, certificate: &CertificateDer<'_>) -> bool {
    // A key that does not tell its public key cannot be told from the right one.
    let Some(own) = key.public_key() else { return true };
    let (Ok((_, own)), Ok((_, certificate))) =
        (SubjectPublicKeyInfo::from_der(&own), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    same_key(&own.subject_public_key.data, &certificate.public_key().subject_public_key.data)
}

/// Whether two public keys are the same. `own` is not compressed; a point on a curve may be in a
/// certificate (SEC1 section 2.3.3).
fn same_key(own: &[u8], certified: &[u8]) -> bool {
    match (own, certified) {
        ([4, point @ ..], [sign @ (2 | 3), x @ ..]) if point.len() == 2 * x.len() => {
            point.starts_with(x) && point.last().is_some_and(|last| (last & 1) + 2 == *sign)
        }
        _ => own == certified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_point_is_the_same_key() {
        let own = [4, 10, 11, 20, 21];
        assert!(same_key(&own, &own));
        assert!(same_key(&own, &[3, 10, 11]));
        assert!(!same_key(&own, &[2, 10, 11]));
        assert!(!same_key(&own, &[3, 10, 12]));
        assert!(!same_key(&own, &[4, 10, 11, 20, 22]));
    }
}
