//! Dials through the frontend, by the code that stands in for the kube-apiserver in tests.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::lookup_host;
use tokio::time::Instant;
use tunnel_client::{Connection, DialError, Early, Endpoint, Options, Protocol, tls_config};

use crate::doctor::egress::{EgressFile, Route, Tls};
use crate::doctor::facts::{Dial, Known};
use crate::doctor::manifest::Manifest;
use crate::report::ServerSetup;

/// The server refuses port 0 by itself, so the dial reaches no agent.
const NOWHERE: &str = "doctor.invalid:0";

/// Limit of a dial.
const DIAL: Duration = Duration::from_secs(8);

/// The kube-apiserver's way to the server.
#[derive(Debug)]
pub(super) struct Through {
    protocol: Protocol,
    endpoint: Endpoint,
    /// In words.
    shown: String,
}

/// A path of the kube-apiserver, on this host.
fn here(path: &Path, manifest: Option<&Manifest>) -> PathBuf {
    manifest.and_then(|manifest| manifest.on_host(path)).unwrap_or_else(|| path.to_owned())
}

fn route(egress: Option<&EgressFile>) -> Option<&Route> {
    egress?.content.as_ref().ok()?.route("cluster")
}

/// The way of the egress file or, without one, the server's own socket.
pub(super) async fn choose(
    egress: Option<&EgressFile>,
    manifest: Option<&Manifest>,
    server: Option<&ServerSetup>,
) -> Known<Through> {
    let unix = |protocol, path: &Path| {
        let name = if protocol == Protocol::Grpc { "GRPC" } else { "HTTPConnect" };
        Through { protocol, endpoint: Endpoint::unix(path), shown: format!("{name} on {}", path.display()) }
    };
    match (route(egress), server) {
        (Some(Route::Grpc(socket)), _) => Ok(unix(Protocol::Grpc, &here(socket, manifest))),
        (Some(Route::Connect(socket)), _) => Ok(unix(Protocol::Connect, &here(socket, manifest))),
        (Some(Route::ConnectTls(tls)), _) => over_tls(tls, manifest).await,
        (Some(Route::Direct) | None, Some(server)) if !server.unix.is_empty() => {
            let grpc = server.mode.as_deref() == Some("grpc");
            let protocol = if grpc { Protocol::Grpc } else { Protocol::Connect };
            Ok(unix(protocol, Path::new(&server.unix)))
        }
        (Some(Route::Direct) | None, _) => {
            Err("neither an egress file nor a server names a frontend".to_owned())
        }
    }
}

async fn over_tls(tls: &Tls, manifest: Option<&Manifest>) -> Known<Through> {
    let file = |path: &Path| here(path, manifest);
    let config = tls_config(&file(&tls.ca), &file(&tls.cert), &file(&tls.key));
    let config = config.map_err(|error| format!("tlsConfig of the egress file: {error}"))?;
    let host = tls.address.rsplit_once(':').map_or(tls.address.as_str(), |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let unresolved = |why: String| format!("{} of the egress file: {why}", tls.address);
    let mut found = lookup_host(&tls.address).await.map_err(|error| unresolved(error.to_string()))?;
    let address = found.next().ok_or_else(|| unresolved("no address".to_owned()))?;
    let name = ServerName::try_from(host).map_err(|error| unresolved(error.to_string()))?;
    let endpoint = Endpoint::tls(address, name, config);
    Ok(Through { protocol: Protocol::Connect, endpoint, shown: format!("HTTPConnect to {}", tls.address) })
}

/// Whether the egress file's socket is the server's.
pub(super) fn same_socket(
    egress: Option<&EgressFile>,
    manifest: Option<&Manifest>,
    server: Option<&ServerSetup>,
) -> Known<bool> {
    let (Some(Route::Grpc(socket) | Route::Connect(socket)), Some(server)) = (route(egress), server) else {
        return Err("no socket to compare".to_owned());
    };
    let inode = |path: &Path| {
        let found = std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>((found.dev(), found.ino()))
    };
    Ok(inode(&here(socket, manifest))? == inode(Path::new(&server.unix))?)
}

impl Through {
    /// Dials a target. Cancel safe.
    pub(super) async fn connect(&self, target: &str) -> Result<Connection, DialError> {
        let options = Options { early: Early::Keep, timeout: DIAL, ..Options::default() };
        tunnel_client::dial(self.protocol, &self.endpoint, target, &options).await
    }
}

/// Dials a target that the server refuses.
pub(super) async fn dial(through: &Known<Through>) -> Known<Dial> {
    let through = through.as_ref().map_err(Clone::clone)?;
    let began = Instant::now();
    let failure = match through.connect(NOWHERE).await {
        Err(error) if error.reason().is_none() => Some(error.to_string()),
        Ok(_) | Err(_) => None,
    };
    Ok(Dial { frontend: through.shown.clone(), took: began.elapsed(), failure })
}
