//! A TLS client's verifier that keeps the server's certificate, and the fault found in it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::certificate::describe;
use crate::report::Certificate;

/// The fault of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its names do not contain the peer's.
    Name,
    /// Its authority is unknown.
    Authority,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    Early,
    /// Anything else.
    Other(String),
}

impl Fault {
    fn of(error: &Error) -> Self {
        let Error::InvalidCertificate(why) = error else { return Self::Other(error.to_string()) };
        if matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
        {
            Self::Name
        } else if *why == CertificateError::UnknownIssuer {
            Self::Authority
        } else if matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
            Self::Expired
        } else if matches!(why, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) {
            Self::Early
        } else {
            Self::Other(error.to_string())
        }
    }
}

/// The verifier. Without authorities it accepts every certificate and verifies nothing.
#[derive(Debug)]
pub(crate) struct Witness {
    provider: Arc<CryptoProvider>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// A fault ends the handshake.
    strict: bool,
    seen: Mutex<Seen>,
}

/// The certificate of the peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) certificate: Option<Certificate>,
    pub(crate) fault: Option<Fault>,
}

impl Witness {
    /// Accepts every certificate, and looks for no fault.
    pub(crate) fn curious() -> Arc<Self> {
        Arc::new(Self::with(None, false))
    }

    /// Looks for faults; if `strict`, a fault ends the handshake.
    pub(crate) fn of(roots: Arc<RootCertStore>, strict: bool) -> Result<Arc<Self>, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        Ok(Arc::new(Self::with(Some(verifier.map_err(|error| error.to_string())?), strict)))
    }

    fn with(authorities: Option<Arc<WebPkiServerVerifier>>, strict: bool) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { provider, authorities, strict, seen: Mutex::default() }
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self.authorities.as_ref().map_or_else(
            || Ok(ServerCertVerified::assertion()),
            |authorities| authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp, now),
        );
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.certificate = describe(end_entity).ok();
        seen.fault = verdict.as_ref().err().map(Fault::of);
        if self.strict { verdict } else { Ok(ServerCertVerified::assertion()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.authorities {
            Some(authorities) if self.strict => authorities.verify_tls12_signature(message, cert, dss),
            Some(_) | None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.authorities {
            Some(authorities) if self.strict => authorities.verify_tls13_signature(message, cert, dss),
            Some(_) | None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
