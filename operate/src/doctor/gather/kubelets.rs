//! Requests to kubelets with the kube-apiserver's credentials, through the tunnel.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::join_all;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tunnel::tls::load_roots;

use super::frontend::Through;
use super::limited;
use crate::doctor::facts::{Known, Kubelet};
use crate::doctor::manifest::Manifest;
use crate::peek::server_name;
use crate::report::ServerSetup;
use crate::witness::{Fault, Witness};

/// Most kubelets that are asked.
const MOST: usize = 5;

/// Longest status line, in bytes.
const MAX_LINE: u64 = 256;

/// A kubelet maps this path to `nodes/proxy`, as it does logs and exec, in all versions; `/pods`
/// may be another permission. The container does not exist, so the answer is 404 for those who
/// may ask.
const PATH: &str = "/containerLogs/kube-system/tunnel-doctor/none";

/// The kubelets of connected agents.
pub(super) fn targets(server: Option<&ServerSetup>, port: u16) -> Vec<String> {
    let agents = server.into_iter().flat_map(|server| &server.connected);
    agents.filter_map(|agent| target(&agent.hosts, port)).take(MOST).collect()
}

/// The kubelet of an agent with these identifiers: an address rather than a name.
pub(super) fn target(hosts: &[String], port: u16) -> Option<String> {
    let address = hosts.iter().find_map(|host| host.parse::<IpAddr>().ok());
    match address {
        Some(IpAddr::V6(ip)) => Some(format!("[{ip}]:{port}")),
        Some(IpAddr::V4(ip)) => Some(format!("{ip}:{port}")),
        None => hosts.first().map(|host| format!("{host}:{port}")),
    }
}

/// The kube-apiserver's files for kubelets.
#[derive(Debug, Clone)]
struct Credentials {
    cert: PathBuf,
    key: PathBuf,
    ca: Option<PathBuf>,
}

impl Credentials {
    fn of(manifest: &Manifest) -> Known<Self> {
        let file = |flag: &str| {
            let path = Path::new(manifest.flag(flag)?);
            Some(manifest.on_host(path).unwrap_or_else(|| path.to_owned()))
        };
        let missing = |flag: &str| format!("the kube-apiserver has no --{flag}");
        let need = |flag: &str| file(flag).ok_or_else(|| missing(flag));
        let (cert, key) = (need("kubelet-client-certificate")?, need("kubelet-client-key")?);
        Ok(Self { cert, key, ca: file("kubelet-certificate-authority") })
    }

    /// TLS as the kube-apiserver has it, but for a fault of the kubelet's certificate, which is
    /// noted and accepted.
    fn tls(&self) -> Known<(Arc<Witness>, ClientConfig)> {
        let bad = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let witness = match &self.ca {
            Some(ca) => Witness::of(load_roots(ca).map_err(|error| error.to_string())?, false)?,
            None => Witness::curious(),
        };
        let chain =
            CertificateDer::pem_file_iter(&self.cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| bad(&self.cert, &error))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| bad(&self.key, &error))?;
        let builder = ClientConfig::builder_with_provider(witness.provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| error.to_string())?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<_>)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad(&self.cert, &error))?;
        Ok((witness, config))
    }
}

/// Asks kubelets, all at once.
pub(super) async fn ask(
    through: &Known<Through>,
    manifest: Result<&Manifest, &String>,
    targets: Vec<String>,
) -> Known<Vec<Kubelet>> {
    let through = through.as_ref().map_err(Clone::clone)?;
    let credentials = Credentials::of(manifest.map_err(Clone::clone)?)?;
    credentials.tls().map(drop)?;
    let asked = targets.into_iter().map(|target| one(through, &credentials, target));
    Ok(join_all(asked).await)
}

async fn one(through: &Through, credentials: &Credentials, target: String) -> Kubelet {
    let (witness, config) = match credentials.tls() {
        Ok(tls) => tls,
        Err(why) => return Kubelet { target, answer: Err(why), trusted: Err("not asked".to_owned()) },
    };
    let answer = limited(status(through, config, &target)).await;
    let trusted = match witness.seen().fault {
        None => Ok(()),
        Some(Fault::Name) => Err("its certificate is for another name or address".to_owned()),
        Some(Fault::Authority) => Err("its certificate is of an unknown CA, maybe its own".to_owned()),
        Some(Fault::Expired) => Err("its certificate has expired".to_owned()),
        Some(Fault::Early) => Err("its certificate is not valid yet".to_owned()),
        Some(Fault::Other(why)) => Err(why),
    };
    Kubelet { target, answer, trusted }
}

async fn status(through: &Through, config: ClientConfig, target: &str) -> Known<u16> {
    let connection = through.connect(target).await.map_err(|error| error.to_string())?;
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    let name = server_name(host.trim_start_matches('[').trim_end_matches(']'));
    let tls = TlsConnector::from(Arc::new(config)).connect(name, connection).await;
    let mut tls = tls.map_err(|error| format!("tls: {error}"))?;
    let request = format!("GET {PATH} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n");
    let lost = |error: std::io::Error| format!("http: {error}");
    tls.write_all(request.as_bytes()).await.map_err(lost)?;
    tls.flush().await.map_err(lost)?;
    let mut line = Vec::new();
    while !line.contains(&b'\n') && tls.read_buf(&mut line).await.map_err(lost)? > 0 {
        if line.len() as u64 > MAX_LINE {
            break;
        }
    }
    let line = String::from_utf8_lossy(&line);
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    code.and_then(|code| code.trim().parse().ok()).ok_or_else(|| "the answer is not HTTP".to_owned())
}
