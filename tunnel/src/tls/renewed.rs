//! TLS whose files are renewed: made anew from them, and replaced whole. Handshakes that begin later
//! use the new one.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;

use super::refused::Careful;
use super::{ALPN, Identity, Offer, TlsError, client, server, verifying};

/// A value that is replaced as a whole. Clones share it.
#[derive(Debug)]
pub struct Renewed<T>(watch::Sender<Arc<T>>);

impl<T> Clone for Renewed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Renewed<T> {
    /// With its first value.
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(Arc::new(value)))
    }

    /// The value in use.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Replaces the value.
    pub fn set(&self, value: T) {
        self.0.send_replace(Arc::new(value));
    }

    /// Tells of values that replace the one of now.
    pub fn changes(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}

/// The authorities that a peer's certificate is checked against, and the certificates that they
/// have revoked. All certificates of a peer are looked for in the lists; one whose issuer has no
/// list is not revoked.
#[derive(Debug, Clone)]
pub struct Authorities {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl From<Arc<RootCertStore>> for Authorities {
    /// Authorities that have revoked nothing.
    fn from(roots: Arc<RootCertStore>) -> Self {
        Self { roots, revoked: Vec::new() }
    }
}

impl Authorities {
    pub(super) fn of_clients(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| TlsError::Config(error.to_string()))?;
        Ok(Arc::new(Careful(verifier)))
    }

    pub(super) fn of_servers(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider)
            .with_crls(self.revoked.iter().cloned())
            .allow_unknown_revocation_status()
            .build()
            .map_err(|error| TlsError::Config(error.to_string()))
    }
}

/// Reads revocation lists.
pub(super) fn lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let fail =
        |why: String| TlsError::File { what: "certificate revocation list", path: path.to_owned(), why };
    let found = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(error.to_string()))?;
    if found.is_empty() {
        return Err(fail("no revocation list in the file".to_owned()));
    }
    Ok(found)
}

/// The TLS of a listener.
#[derive(Debug, Clone)]
pub struct Listening {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Listening {
    /// For agents. Their certificates are required if there are authorities.
    ///
    /// # Errors
    /// When key, certificate, authorities or settings do not fit together.
    pub fn for_agents(
        identity: &Identity,
        agents: Option<&Authorities>,
        offer: &Offer,
    ) -> Result<Self, TlsError> {
        Self::new(identity, agents, offer, vec![ALPN.to_vec()])
    }

    /// For the frontend on TCP. kube-apiservers offer no ALPN, gRPC clients `h2`.
    ///
    /// # Errors
    /// As [`Self::for_agents`].
    pub fn for_clients(identity: &Identity, clients: &Authorities, offer: &Offer) -> Result<Self, TlsError> {
        Self::new(identity, Some(clients), offer, vec![b"h2".to_vec(), b"http/1.1".to_vec()])
    }

    fn new(
        identity: &Identity,
        clients: Option<&Authorities>,
        offer: &Offer,
        alpn: Vec<Vec<u8>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(offer.provider());
        let clients = clients.map(|them| them.of_clients(Arc::clone(&provider))).transpose()?;
        let mut config = server(identity, clients.clone(), offer, provider)?;
        config.alpn_protocols = alpn;
        Ok(Self { config: Arc::new(config), clients })
    }

    /// Whether a client with this chain, its own certificate first, would be admitted at a time.
    ///
    /// # Errors
    /// With the reason against it. An empty chain is refused where certificates are required.
    pub fn check(&self, chain: &[CertificateDer<'_>], at: UnixTime) -> Result<(), String> {
        let Some(verifier) = &self.clients else { return Ok(()) };
        let Some((own, rest)) = chain.split_first() else { return Err("no certificate".to_owned()) };
        let verified = verifier.verify_client_cert(own, rest, at);
        verified.map(drop).map_err(|error| error.to_string())
    }
}

/// The TLS of an agent's connections to servers.
#[derive(Debug, Clone)]
pub struct Dialling {
    /// For handshakes.
    pub config: Arc<ClientConfig>,
    /// The agent's own certificate, without its chain.
    pub own: Option<Arc<CertificateDer<'static>>>,
    servers: Arc<WebPkiServerVerifier>,
}

impl Dialling {
    /// With the agent's certificate, if it has one.
    ///
    /// # Errors
    /// When key, certificate or authorities do not fit together.
    pub fn new(identity: Option<&Identity>, servers: &Authorities) -> Result<Self, TlsError> {
        let provider = Arc::new(Offer::default().provider());
        let servers = servers.of_servers(Arc::clone(&provider))?;
        let builder = verifying(provider)?.with_webpki_verifier(Arc::clone(&servers));
        let config = Arc::new(client(identity, builder)?);
        let own = identity.and_then(|identity| identity.chain.first().cloned().map(Arc::new));
        Ok(Self { config, own, servers })
    }

    /// Whether a server of this name with this chain, its own certificate first, would be accepted
    /// at a time.
    ///
    /// # Errors
    /// With the reason against it.
    pub fn check(&self, chain: &[CertificateDer<'_>], name: &str, at: UnixTime) -> Result<(), String> {
        let Some((own, rest)) = chain.split_first() else { return Err("no certificate".to_owned()) };
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let verified = self.servers.verify_server_cert(own, rest, &name, &[], at);
        verified.map(drop).map_err(|error| error.to_string())
    }
}
