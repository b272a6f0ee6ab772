//! The address of a frontend, and opening a socket to it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::deadline::Deadline;
use crate::error::DialError;
use crate::options::{Options, Protocol};
use crate::socket::Socket;

/// The address of a frontend, with its TLS configuration. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Tls(Tls),
    Unix(Arc<Path>),
}

#[derive(Debug, Clone)]
struct Tls {
    address: SocketAddr,
    /// The name that the certificate must have.
    server_name: ServerName<'static>,
    /// For CONNECT: no ALPN, like the kube-apiserver.
    plain: Arc<ClientConfig>,
    /// For gRPC: ALPN `h2`.
    http2: Arc<ClientConfig>,
}

impl Endpoint {
    /// A Unix socket.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self(Kind::Unix(path.into().into()))
    }

    /// TCP with TLS; a client certificate, if any, is in `config`. Its ALPN
    /// protocols are replaced by those of the dial's protocol. Sessions are never
    /// resumed, because the kube-apiserver does not resume them.
    pub fn tls(address: SocketAddr, server_name: ServerName<'static>, config: ClientConfig) -> Self {
        let with_alpn = |protocols: Vec<Vec<u8>>| {
            let mut config = config.clone();
            config.resumption = Resumption::disabled();
            config.alpn_protocols = protocols;
            Arc::new(config)
        };
        let (plain, http2) = (with_alpn(Vec::new()), with_alpn(vec![b"h2".to_vec()]));
        Self(Kind::Tls(Tls { address, server_name, plain, http2 }))
    }

    /// The `:scheme` of requests.
    pub(crate) const fn scheme(&self) -> &'static str {
        match self.0 {
            Kind::Tls(_) => "https",
            Kind::Unix(_) => "http",
        }
    }

    /// A new socket, after its TLS handshake.
    pub(crate) async fn open(
        &self,
        protocol: Protocol,
        options: &Options,
        deadline: &Deadline,
    ) -> Result<Socket, DialError> {
        match &self.0 {
            // Boxed, so that dials over Unix sockets stay small futures.
            Kind::Tls(tls) => Box::pin(tls.open(protocol, options, deadline)).await,
            Kind::Unix(path) => {
                let socket = deadline.step("connection to the frontend", UnixStream::connect(path)).await?;
                socket.map(Socket::Unix).map_err(DialError::Connect)
            }
        }
    }
}

impl Tls {
    async fn open(
        &self,
        protocol: Protocol,
        options: &Options,
        deadline: &Deadline,
    ) -> Result<Socket, DialError> {
        let tcp = deadline.step("connection to the frontend", TcpStream::connect(self.address)).await?;
        let tcp = tcp.map_err(DialError::Connect)?;
        tcp.set_nodelay(true).map_err(DialError::Connect)?;
        if options.reset_on_close {
            tcp.set_zero_linger().map_err(DialError::Connect)?;
        }
        let config = match protocol {
            Protocol::Connect => &self.plain,
            Protocol::Grpc => &self.http2,
        };
        let handshake = TlsConnector::from(Arc::clone(config)).connect(self.server_name.clone(), tcp);
        let socket = deadline.step("end of the tls handshake", handshake).await?;
        socket.map(|socket| Socket::Tls(Box::new(socket))).map_err(DialError::Tls)
    }
}

/// A TLS configuration from PEM files: the CA of the frontend, and the
/// certificate and key of this client. Blocks on reading the files.
///
/// # Errors
/// Names the file that is missing, is not PEM, or does not fit the others.
pub fn tls_config(ca: &Path, certificate: &Path, key: &Path) -> Result<ClientConfig, PemError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca)? {
        roots.add(root).map_err(|error| PemError::new(ca, &error))?;
    }
    let chain = certificates(certificate)?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| PemError::new(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PemError::new(key, &error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private_key)
        .map_err(|error| PemError::new(certificate, &error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| PemError::new(path, &error))?;
    if certificates.is_empty() {
        return Err(PemError::new(path, &pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// A file without a usable certificate or key.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}", path = path.display())]
pub struct PemError {
    path: PathBuf,
    problem: String,
}

impl PemError {
    fn new(path: &Path, problem: &dyn fmt::Display) -> Self {
        Self { path: path.into(), problem: problem.to_string() }
    }
}
