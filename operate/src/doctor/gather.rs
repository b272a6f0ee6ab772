//! Collects the facts: those that do not depend on each other at the same time, each within a
//! limit.

mod files;
mod frontend;
mod host;
mod kubelets;
mod links;
mod stranger;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use tunnel_kube::Access;

use super::facts::{Facts, Known};
use crate::certificate;
use crate::client::Client;
use crate::report::{AgentSetup, ProbeReport, ProbeRequest, ServerSetup, Setup, TlsMode};

/// Limit of one fact. Less fails slow networks, where a handshake may be repeated; more makes
/// people wait for dead addresses.
const LIMIT: Duration = Duration::from_secs(10);

/// Limits of the probe of the node's kubelet, in milliseconds: of its dial, and of TLS.
const PROBE_MS: u64 = 4000;

/// The places to look at, from flags.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) manifest: PathBuf,
    pub(crate) egress: Option<PathBuf>,
    pub(crate) agents_dial: Vec<String>,
    pub(crate) kubelet_port: u16,
    pub(crate) audience: String,
}

async fn limited<T>(fact: impl Future<Output = Known<T>>) -> Known<T> {
    let late = |_| Err(format!("no answer within {LIMIT:?}"));
    Box::pin(timeout(LIMIT, fact)).await.unwrap_or_else(late)
}

/// Not known, because the other program would know it.
fn elsewhere<T>() -> Known<T> {
    Err("a fact of the other program".to_owned())
}

/// Nothing known but what this host shows.
pub(super) fn nothing() -> Facts {
    Facts {
        server: elsewhere(),
        agent: elsewhere(),
        status: elsewhere(),
        manifest: elsewhere(),
        egress: elsewhere(),
        same_socket: elsewhere(),
        dial: elsewhere(),
        kubelets: elsewhere(),
        kubelet_user: elsewhere(),
        handshakes: elsewhere(),
        anonymous: elsewhere(),
        stranger: elsewhere(),
        admissions: elsewhere(),
        stale: Vec::new(),
        certificates: elsewhere(),
        named: elsewhere(),
        clock: elsewhere(),
        buffer: host::buffer(),
        interfaces: host::interfaces(Path::new(host::INTERFACES)),
        lookups: elsewhere(),
        token: elsewhere(),
        resolver: elsewhere(),
        own_kubelet: elsewhere(),
    }
}

/// The facts of a server. Cancel safe.
pub(crate) async fn server(client: &Client, sources: &Sources) -> Facts {
    let (setup, status) = tokio::join!(client.setup(), client.status());
    let server: Known<ServerSetup> = match setup {
        Ok(Setup::Server(server)) => Ok(server),
        Ok(Setup::Agent(_)) => Err("an agent answers there, not a server".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let manifest = files::manifest(&sources.manifest);
    let egress = files::egress(sources.egress.as_deref(), manifest.as_ref());
    let same_socket =
        frontend::same_socket(egress.as_ref().ok(), manifest.as_ref().ok(), server.as_ref().ok());
    let through = frontend::choose(egress.as_ref().ok(), manifest.as_ref().ok(), server.as_ref().ok()).await;
    let targets = kubelets::targets(server.as_ref().ok(), sources.kubelet_port);
    let links = async {
        match &server {
            Ok(server) => links::of_server(server).await,
            Err(_) => links::OfServer::unknown("the server does not answer (T100)"),
        }
    };
    let (dial, kubelets, links, clock) = tokio::join!(
        limited(frontend::dial(&through)),
        Box::pin(kubelets::ask(&through, manifest.as_ref(), targets)),
        Box::pin(links),
        limited(clock(server.as_ref().map(|server| server.kubeconfig.as_str()).ok())),
    );
    Facts {
        status: status.map_err(|error| error.to_string()),
        stale: server.as_ref().map(|server| certificate::stale(&server.certificates)).unwrap_or_default(),
        certificates: Ok(files::certificates_of_server(server.as_ref().ok(), manifest.as_ref().ok())),
        named: server.as_ref().map_err(Clone::clone).and_then(|server| {
            let named = files::certificate(Path::new(&server.cluster_cert))?;
            Ok((named, sources.agents_dial.clone()))
        }),
        kubelet_user: manifest.as_ref().map_err(Clone::clone).and_then(files::kubelet_user),
        dial,
        kubelets,
        handshakes: links.handshakes,
        anonymous: links.anonymous,
        stranger: links.stranger,
        clock,
        same_socket,
        server,
        manifest,
        egress,
        ..nothing()
    }
}

/// The facts of an agent. Cancel safe.
pub(crate) async fn agent(client: &Client, sources: &Sources) -> Facts {
    let (setup, status) = tokio::join!(client.setup(), client.status());
    let agent: Known<AgentSetup> = match setup {
        Ok(Setup::Agent(agent)) => Ok(agent),
        Ok(Setup::Server(_)) => Err("a server answers there, not an agent".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let status = status.map_err(|error| error.to_string());
    let facts = Facts { status, resolver: files::resolver(Path::new(files::RESOLVER)), ..nothing() };
    let agent = match agent {
        Ok(agent) => agent,
        Err(why) => {
            let skip = || "the agent does not answer (T100)".to_owned();
            return Facts {
                agent: Err(why),
                handshakes: Err(skip()),
                admissions: Err(skip()),
                certificates: Err(skip()),
                clock: Err(skip()),
                lookups: Err(skip()),
                token: Err(skip()),
                own_kubelet: Err(skip()),
                ..facts
            };
        }
    };
    let ways = async {
        let found = host::look_up(&agent.servers).await;
        let links = Box::pin(links::of_agent(&agent, &found)).await;
        (found, links)
    };
    let ((found, links), clock, own_kubelet) = tokio::join!(
        Box::pin(ways),
        limited(clock(Some(&agent.kubeconfig))),
        Box::pin(own_kubelet(client, &agent, sources.kubelet_port)),
    );
    Facts {
        handshakes: links.handshakes,
        admissions: links.admissions,
        stale: certificate::stale(&agent.certificates),
        certificates: Ok(files::certificates_of_agent(&agent)),
        clock,
        lookups: Ok(found.into_iter().map(|named| named.lookup).collect()),
        token: files::token(&agent.token, &sources.audience),
        own_kubelet,
        agent: Ok(agent),
        ..facts
    }
}

/// Seconds by which this host's clock is ahead of the API server's.
async fn clock(kubeconfig: Option<&str>) -> Known<i64> {
    let kubeconfig = kubeconfig.filter(|path| !path.is_empty()).map(PathBuf::from);
    let cluster = Access { kubeconfig, ..Access::default() }.connect().await;
    let cluster = cluster.map_err(|_| {
        "there is no --kubeconfig and no service account to ask the Kubernetes API for its time".to_owned()
    })?;
    cluster.clock_ahead().await
}

async fn own_kubelet(client: &Client, agent: &AgentSetup, port: u16) -> Known<ProbeReport> {
    let Some(target) = kubelets::target(&agent.hosts, port) else {
        return Err("the agent names no node's address among its identifiers".to_owned());
    };
    let request = ProbeRequest { target, tls: TlsMode::Always, timeout_ms: PROBE_MS };
    client.probe(&request).await.map_err(|error| error.to_string())
}
