//! Flags made into values. What would leave a door open is refused here, with
//! the flags that close it.

mod auth;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tracing::warn;
use tunnel::liveness::Patience;
use tunnel::tls::{self, Identity, MinVersion, Offer, Secret, Suites};
use tunnel::transport::quic::Datagrams;
use tunnel_operate::certificate::Files;
use tunnel_program::args::{Bind, List, bind, existing, given};

use crate::cli::{Cli, KubeArgs, LeaseArgs, Mode, WireArgs};
use crate::route::Strategy;

pub use auth::TokenAuth;

/// Port of the TCP frontend when neither it nor a Unix socket is asked for.
const DEFAULT_SERVER_PORT: u16 = 8090;

/// Limit of a dial when `--backend-dial-timeout=0`, which means "no limit" in
/// Konnectivity; here every wait has one.
const LONGEST_DIAL: Duration = Duration::from_secs(30);

/// What Kubernetes' own client library takes 0 for.
const DEFAULT_QPS: f32 = 5.0;

/// The same, for requests at once.
const DEFAULT_BURST: u32 = 10;

/// Everything a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unix socket of the frontend, and whether to take an existing one over.
    pub unix: Option<(PathBuf, bool)>,
    /// TCP frontend.
    pub tcp: Option<(Bind, Arc<rustls::ServerConfig>)>,
    /// Only this protocol on the frontends.
    pub mode: Option<Mode>,
    /// Listener of agents, TCP and UDP.
    pub agents: Bind,
    /// How agents are authenticated by certificate, if they are.
    pub agent_tls: Arc<rustls::ServerConfig>,
    /// How agents are authenticated by token, if they are.
    pub tokens: Option<TokenAuth>,
    /// Lets a restarted server say on QUIC that its predecessor's tunnels are gone.
    pub reset_secret: Secret,
    /// Admin listener.
    pub admin: Bind,
    /// Health listener.
    pub health: Bind,
    /// Whether `/debug/pprof/` answers on the admin listener.
    pub profiling: bool,
    /// This server's name.
    pub server_id: String,
    /// How many servers there are, told to agents.
    pub server_count: u32,
    /// Access to the kube-apiserver, for tokens and leases.
    pub kube: KubeAccess,
    /// The Lease that says that this server is there, if one is kept.
    pub leases: Option<LeasePublishing>,
    /// The largest datagrams that are tried on QUIC.
    pub datagrams: Datagrams,
    /// Which nodes should have an agent, as a label selector; nobody knows if `None`.
    pub expected_nodes: Option<String>,
    /// Unix socket for commands; none if empty.
    pub admin_socket: PathBuf,
    /// The certificates of all flags.
    pub certificates: Files,
    /// Bytes that connections which stand still may keep together; 0 is no limit.
    pub stalled_memory: u64,
    /// How long silent agents are waited for; no flag says otherwise.
    pub patience: Patience,
    /// Routing.
    pub strategies: Vec<Strategy>,
    /// Limit of a dial.
    pub dial_limit: Duration,
    /// Limit of a drain.
    pub grace: Duration,
}

/// How to reach the kube-apiserver.
#[derive(Debug, Clone, PartialEq)]
pub struct KubeAccess {
    /// The kubeconfig; the pod's service account if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// Requests per second.
    pub qps: f32,
    /// Requests that may come at once.
    pub burst: u32,
}

/// The Lease that a server keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeasePublishing {
    /// Its namespace.
    pub namespace: String,
    /// Its labels, at least one.
    pub labels: Vec<(String, String)>,
}

impl TryFrom<Cli> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Cli) -> anyhow::Result<Self> {
        let profiling = args.wire.shared.profiling()?;
        let offer = offer(&args.wire)?;
        let unix = given(&args.uds_name).map(|path| (path, args.delete_existing_uds_file));
        let port = args.server_port.unwrap_or(if unix.is_some() { 0 } else { DEFAULT_SERVER_PORT });
        let tcp = if port == 0 { no_tcp_frontend(&args)? } else { Some(tcp_frontend(&args, port, &offer)?) };
        ensure!(unix.is_some() || tcp.is_some(), "no frontend: give --uds-name, --server-port, or both");
        let agents = auth::of_agents(&args, &offer)?;
        let certificates = Files::read([
            ("--server-cert", args.server_cert.as_path()),
            ("--server-ca-cert", &args.server_ca_cert),
            ("--cluster-cert", &args.cluster_cert),
            ("--cluster-ca-cert", &args.cluster_ca_cert),
        ]);
        Ok(Self {
            agent_tls: agents.tls,
            reset_secret: agents.reset_secret,
            tokens: agents.tokens,
            agents: bind("--agent-bind-address", &args.agent_bind_address, args.agent_port)?,
            admin: bind("--admin-bind-address", &args.admin_bind_address, args.admin_port)?,
            health: bind("--health-bind-address", &args.health_bind_address, args.health_port)?,
            profiling,
            unix,
            tcp,
            mode: args.mode,
            server_id: match args.server_id {
                id if id.is_empty() => uuid::Uuid::new_v4().to_string(),
                id => id,
            },
            server_count: args.server_count,
            kube: kube_access(&args.kube)?,
            leases: lease_publishing(args.leases)?,
            expected_nodes: args.operate.expected_nodes.into(),
            admin_socket: args.operate.admin_socket,
            certificates,
            datagrams: args.wire.shared.datagrams(),
            stalled_memory: args.wire.max_stalled_memory,
            patience: Patience::default(),
            strategies: args.proxy_strategies.into(),
            dial_limit: match args.backend_dial_timeout {
                Duration::ZERO => LONGEST_DIAL,
                limit => limit,
            },
            grace: args.graceful_shutdown_timeout,
        })
    }
}

/// What both TLS listeners offer.
fn offer(args: &WireArgs) -> anyhow::Result<Offer> {
    let suites = Suites::parse(List::flatten(args.cipher_suites.clone())).context("--cipher-suites")?;
    if !suites.absent().is_empty() {
        warn!(suites = ?suites.absent(), "--cipher-suites: these are not implemented and not offered");
    }
    if args.tls_min_version == MinVersion::Obsolete {
        warn!("--tls-min-version: TLS before 1.2 is insecure (RFC 8996) and not offered");
    }
    Ok(Offer { min_version: args.tls_min_version, suites })
}

/// Certificates without a frontend that shows them are a mistake: somebody
/// expects a port that is not there.
fn no_tcp_frontend<T>(args: &Cli) -> anyhow::Result<Option<T>> {
    let useless = [
        ("--server-cert", &args.server_cert),
        ("--server-key", &args.server_key),
        ("--server-ca-cert", &args.server_ca_cert),
    ];
    for (flag, path) in useless {
        ensure!(
            given(path).is_none(),
            "{flag} is for the frontend on TCP, and there is none: give --server-port, or leave {flag} out"
        );
    }
    Ok(None)
}

/// Whoever may open the TCP frontend may reach every node, so there is none
/// without client certificates.
fn tcp_frontend(args: &Cli, port: u16, offer: &Offer) -> anyhow::Result<(Bind, Arc<rustls::ServerConfig>)> {
    ensure!(
        given(&args.server_ca_cert).is_some(),
        "the frontend on TCP port {port} would let anybody reach every node: give --server-ca-cert, the CA \
         of the kube-apiserver's client certificate (or --server-port=0 and --uds-name)"
    );
    ensure!(
        given(&args.server_cert).is_some() && given(&args.server_key).is_some(),
        "the frontend on TCP port {port} needs --server-cert and --server-key"
    );
    let identity =
        Identity::load(&args.server_cert, &args.server_key).context("--server-cert, --server-key")?;
    let clients = tls::load_roots(&args.server_ca_cert).context("--server-ca-cert")?;
    let tls = tls::frontend_listener(&identity, clients, offer)?;
    Ok((bind("--server-bind-address", &args.server_bind_address, port)?, tls))
}

fn kube_access(args: &KubeArgs) -> anyhow::Result<KubeAccess> {
    let kubeconfig = existing("--kubeconfig", &args.kubeconfig)?;
    Ok(KubeAccess {
        kubeconfig,
        qps: if args.kubeconfig_qps > 0.0 { args.kubeconfig_qps } else { DEFAULT_QPS },
        burst: if args.kubeconfig_burst > 0 { args.kubeconfig_burst } else { DEFAULT_BURST },
    })
}

/// Labels are read, and refused, also where nothing is published, as in Konnectivity.
fn lease_publishing(args: LeaseArgs) -> anyhow::Result<Option<LeasePublishing>> {
    let labels = tunnel_program::args::labels(&args.lease_label).context("--lease-label")?;
    if !args.enable_lease_controller {
        return Ok(None);
    }
    ensure!(!args.lease_namespace.is_empty(), "--enable-lease-controller needs --lease-namespace");
    Ok(Some(LeasePublishing { namespace: args.lease_namespace, labels }))
}
