//! TLS: certificates and keys from files, and the configurations of both ends.
//!
//! ring is the only provider. AES-128 comes first: it is as safe here, and a tenth cheaper
//! per byte.

mod files;
mod options;
mod refused;
mod renewed;
mod supported;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ring::hmac;
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ConfigBuilder, InconsistentKeys, RootCertStore, WantsVerifier};

pub use files::{Kept, Part, TlsFiles, Unreadable};
pub use options::{MinVersion, Offer, Suites, UnknownSuite};
pub use refused::refused_certificate;
pub use renewed::{Authorities, Dialling, Listening, Renewed};

/// The ALPN protocol of tunnels, on TCP and QUIC.
pub const ALPN: &[u8] = b"tunnel/1";

/// Why files or settings do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or parsed.
    #[error("{what} {path}: {why}")]
    File {
        /// The expected content.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// Certificate and key, or the settings, do not fit together.
    #[error("tls configuration: {0}")]
    Config(String),
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self::Config(error.to_string())
    }
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds nothing of its kind, or when the key is not the
    /// certificate's.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let bad_key = |why: String| TlsError::File { what: "private key", path: key.to_owned(), why };
        let found = PrivateKeyDer::from_pem_file(key).map_err(|error| bad_key(error.to_string()))?;
        let chain = certificates("certificate", cert)?;
        if let Some(unsupported) = chain.iter().find_map(supported::shown) {
            let why = unsupported.to_string();
            return Err(TlsError::File { what: "certificate", path: cert.to_owned(), why });
        }
        let signing = any_supported_type(&found).map_err(|error| bad_key(error.to_string()))?;
        match CertifiedKey::new(chain.clone(), signing).keys_match() {
            // Some keys cannot be compared; handshakes fail if they do not match.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err(bad_key(format!("not the key of the certificate {}", cert.display())));
            }
            Err(error) => {
                let why = error.to_string();
                return Err(TlsError::File { what: "certificate", path: cert.to_owned(), why });
            }
        }
        Ok(Self { chain, key: found })
    }

    /// A certificate and its key in DER, which are not compared.
    pub fn new(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain: vec![certificate], key }
    }

    /// Derives a secret from the key, for uses beside TLS.
    pub fn derived_secret(&self, purpose: &str) -> Secret {
        Secret::derived(self.key.secret_der(), purpose)
    }

    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

/// Bytes that are never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// HMAC-SHA-256 of `purpose`.
    pub fn derived(key: &[u8], purpose: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let mut secret = [0; 32];
        secret.copy_from_slice(hmac::sign(&key, purpose.as_bytes()).as_ref());
        Self(secret)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Reads the certificates that peers are checked against.
///
/// # Errors
/// When the file cannot be read or holds a certificate that cannot sign.
pub fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    let fail = |why: String| TlsError::File { what: "certificate authority", path: path.to_owned(), why };
    for certificate in certificates("certificate authority", path)? {
        if let Some(unsupported) = supported::key_of(&certificate) {
            return Err(fail(unsupported.to_string()));
        }
        roots.add(certificate).map_err(|error| fail(error.to_string()))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |why: String| TlsError::File { what, path: path.to_owned(), why };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(error.to_string()))?;
    if found.is_empty() {
        return Err(fail("no certificate in the file".to_owned()));
    }
    Ok(found)
}

/// For listeners of agents, with [`ALPN`]. Client certificates are required if `agents` has
/// authorities to check them against, and not asked for otherwise.
///
/// # Errors
/// When key, certificate or settings do not fit together.
pub fn agent_listener(
    identity: &Identity,
    agents: Option<Arc<RootCertStore>>,
    offer: &Offer,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let agents = agents.map(Authorities::from);
    Ok(Listening::for_agents(identity, agents.as_ref(), offer)?.config)
}

fn server(
    identity: &Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    offer: &Offer,
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ServerConfig, TlsError> {
    let builder =
        rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(offer.versions())?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = identity.parts();
    let mut config = builder.with_single_cert(chain, key)?;
    // A resumed session would outlive its client's certificate, which is not verified again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For agents: TLS 1.3, [`ALPN`], and a client certificate if `identity` has one.
///
/// # Errors
/// When key, certificate or settings do not fit together.
pub fn agent_client(
    identity: Option<&Identity>,
    servers: Arc<RootCertStore>,
) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let builder = verifying(Arc::new(Offer::default().provider()))?.with_root_certificates(servers);
    Ok(Arc::new(client(identity, builder)?))
}

fn verifying(
    provider: Arc<CryptoProvider>,
) -> Result<ConfigBuilder<rustls::ClientConfig, WantsVerifier>, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    Ok(builder.with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn client(
    identity: Option<&Identity>,
    builder: ConfigBuilder<rustls::ClientConfig, WantsClientCert>,
) -> Result<rustls::ClientConfig, TlsError> {
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.parts();
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Nor would the server's certificate be.
    config.resumption = Resumption::disabled();
    Ok(config)
}
