//! Why peers' certificates are refused, by a bounded set of names.
//!
//! The names are read from rustls's texts, because quinn passes on nothing else of a TLS error.
//! `tests/tests/identity/credentials.rs` holds them, with real handshakes on every listener.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use webpki::EndEntityCert;

/// The text of [`Error::NoCertificatesPresented`].
const MISSING: &str = "peer sent no certificates";

/// The text of [`Error::InvalidCertificate`] before that of its [`CertificateError`].
const INVALID: &str = "invalid peer certificate: ";

/// Beginnings of the texts of [`CertificateError`], each with its name. Longer ones come first.
const NAMES: [(&str, &str); 14] = [
    ("certificate expired", "certificate_expired"),
    ("certificate not valid yet", "certificate_not_yet_valid"),
    ("certificate does not allow extended key usage", "certificate_wrong_usage"),
    ("certificate not valid for name", "certificate_wrong_name"),
    ("certificate revocation list expired", "certificate_revocation_unknown"),
    ("UnknownRevocationStatus", "certificate_revocation_unknown"),
    ("ExpiredRevocationList", "certificate_revocation_unknown"),
    ("Revoked", "certificate_revoked"),
    ("UnknownIssuer", "certificate_unknown_issuer"),
    ("Other(OtherError(LongChain", "certificate_chain_too_long"),
    ("Other(OtherError(SelfSigned", "certificate_self_signed"),
    ("Other(OtherError(NameConstraintViolation", "certificate_name_constraints"),
    ("InvalidPurpose", "certificate_wrong_usage"),
    ("Expired", "certificate_expired"),
];

/// The name of every other fault: a certificate that cannot be read, or a bad signature.
const OTHER: &str = "certificate_bad";

/// The name of the reason for which this end has refused its peer's certificate, by the error's
/// text. `None` for other errors. The text has to be this end's own: a peer may say anything.
pub fn refused_certificate(error: &str) -> Option<&'static str> {
    if error.contains(MISSING) {
        return Some("certificate_missing");
    }
    let (_, why) = error.split_once(INVALID)?;
    let known = NAMES.iter().find(|(start, _)| why.starts_with(start));
    Some(known.map_or(OTHER, |(_, name)| name))
}

/// Most certificates of a client, its own included. Real chains have two to four. More cost up to 70 ms
/// of processor time in a handshake, because each is tried as the issuer of others.
const LONGEST_CHAIN: usize = 8;

/// Refuses long chains before they cost time, and tells certificates that their holders signed
/// themselves from those of unknown authorities.
#[derive(Debug)]
pub(super) struct Careful(pub(super) Arc<dyn ClientCertVerifier>);

/// The holder is the issuer. Its debug text is in [`NAMES`].
#[derive(Debug)]
struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate is self-signed")
    }
}

impl std::error::Error for SelfSigned {}

/// There are more certificates than [`LONGEST_CHAIN`]. As above.
#[derive(Debug)]
struct LongChain;

impl fmt::Display for LongChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {LONGEST_CHAIN} certificates")
    }
}

impl std::error::Error for LongChain {}

impl ClientCertVerifier for Careful {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.len() >= LONGEST_CHAIN {
            return Err(CertificateError::Other(OtherError(Arc::new(LongChain))).into());
        }
        self.0.verify_client_cert(certificate, intermediates, now).map_err(|error| {
            // An authority's own certificate is no error of its issuer (webpki's
            // `CaUsedAsEndEntity`), and openssl makes self-signed ones like that.
            let is_of_issuer = matches!(
                error,
                Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_))
            );
            if is_of_issuer && is_self_issued(certificate) {
                CertificateError::Other(OtherError(Arc::new(SelfSigned))).into()
            } else {
                error
            }
        })
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|cert| cert.issuer() == cert.subject())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_rustls_texts() {
        let name = |error: Error| refused_certificate(&format!("tls: {error}"));
        let invalid = |error: CertificateError| name(error.into());
        let (time, later) = (UnixTime::since_unix_epoch, std::time::Duration::from_secs(7));
        let (time, not_after) = (time(later), time(later));
        assert_eq!(name(Error::NoCertificatesPresented), Some("certificate_missing"));
        for (error, expected) in [
            (CertificateError::Expired, "certificate_expired"),
            (CertificateError::ExpiredContext { time, not_after }, "certificate_expired"),
            (CertificateError::NotValidYetContext { time, not_before: time }, "certificate_not_yet_valid"),
            (CertificateError::UnknownIssuer, "certificate_unknown_issuer"),
            (CertificateError::Revoked, "certificate_revoked"),
            (CertificateError::UnknownRevocationStatus, "certificate_revocation_unknown"),
            (CertificateError::ExpiredRevocationList, "certificate_revocation_unknown"),
            (
                CertificateError::ExpiredRevocationListContext { time, next_update: time },
                "certificate_revocation_unknown",
            ),
            (CertificateError::InvalidPurpose, "certificate_wrong_usage"),
            (CertificateError::BadSignature, OTHER),
            (CertificateError::BadEncoding, OTHER),
            (CertificateError::Other(OtherError(Arc::new(SelfSigned))), "certificate_self_signed"),
            (CertificateError::Other(OtherError(Arc::new(LongChain))), "certificate_chain_too_long"),
            (
                CertificateError::Other(OtherError(Arc::new(webpki::Error::NameConstraintViolation))),
                "certificate_name_constraints",
            ),
        ] {
            assert_eq!(invalid(error.clone()), Some(expected), "{error:?}");
        }
        assert_eq!(name(Error::DecryptError), None);
        assert_eq!(name(Error::AlertReceived(rustls::AlertDescription::CertificateExpired)), None);
    }
}
