//! Flags made into values. A combination that would let strangers in is refused, and the
//! error names the flags that keep them out.

mod auth;
mod clients;
mod identity;
mod leases;
#[cfg(test)]
mod manifests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tracing::warn;
use tunnel::listen::Place;
use tunnel::liveness::Patience;
use tunnel::tls::{Kept, Listening, MinVersion, Offer, Secret, Suites, TlsError, TlsFiles};
use tunnel::transport::quic::Datagrams;
use tunnel_kube::leases::Publication;
use tunnel_kube::{Access, Expected};
use tunnel_operate::certificate::Files;
use tunnel_policy::Gate;
use tunnel_program::args::{Bind, List, bind, existing, given};
use tunnel_program::renewal::PERIOD;

use crate::agents::Rules;
use crate::cli::{AgentTransport, Cli, KubeArgs, Mode, WireArgs};
use crate::clients::Admission;
use crate::route::Strategy;
pub(crate) use clients::{Ids, Owner};

/// Port of the TCP frontend without `--server-port` and `--uds-name`.
const DEFAULT_SERVER_PORT: u16 = 8090;

/// Limit of a dial with `--backend-dial-timeout=0`, which means "no limit" in
/// Konnectivity; here every wait has a limit.
const LONGEST_DIAL: Duration = Duration::from_secs(30);

/// The configuration of a server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unix socket of the frontend.
    pub(crate) unix: Option<Place>,
    /// TCP frontend.
    pub tcp: Option<(Bind, Kept<Listening>)>,
    /// The clients of the frontends that are admitted.
    pub(crate) admission: Admission,
    /// The only protocol of the frontends; both if `None`.
    pub(crate) mode: Option<Mode>,
    /// Listener of agents, TCP and UDP.
    pub(crate) agents: Bind,
    /// TLS of the listener of agents; asks for certificates if those authenticate agents.
    pub(crate) agent_tls: Kept<Listening>,
    /// The tokens that authenticate agents, if tokens do.
    pub(crate) tokens: Option<Expected>,
    /// The proof in an agent's credential, and its consequences.
    pub(crate) rules: Rules,
    /// Key of QUIC's stateless resets, by which a restarted server ends its predecessor's tunnels.
    pub(crate) reset_secret: Secret,
    pub(crate) admin: Bind,
    pub(crate) health: Bind,
    /// Whether `/debug/pprof/` answers on the admin listener.
    pub(crate) profiling: bool,
    pub(crate) server_id: String,
    /// Number of servers, told to agents.
    pub(crate) server_count: u32,
    /// Told to agents.
    pub(crate) agent_transport: AgentTransport,
    /// Access to the Kubernetes API, for reviews of tokens and Leases.
    pub(crate) kube: Access,
    /// The Lease of this server, if it keeps one.
    pub(crate) leases: Option<Publication>,
    /// The largest datagrams that are tried on QUIC.
    pub(crate) datagrams: Datagrams,
    /// Label selector of the nodes that should have an agent, if the operator gave one.
    pub(crate) expected_nodes: Option<String>,
    /// Unix socket for commands; none if empty.
    pub(crate) admin_socket: PathBuf,
    /// The certificates of all flags.
    pub(crate) certificates: Files,
    pub(crate) cluster_cert: PathBuf,
    /// Agents need neither certificate nor token.
    pub(crate) anonymous: bool,
    /// Bytes that all stalled connections may keep together; 0 is no limit.
    pub(crate) stalled_memory: u64,
    /// Time without an acknowledgement after which a client on TCP is given up; `None` is the kernel's.
    pub(crate) ack_timeout: Option<Duration>,
    /// Limits of an agent's silence. No flag sets them.
    pub patience: Patience,
    /// Time between two looks at the files of flags. No flag sets it.
    pub renewal: Duration,
    pub(crate) policy_file: Option<PathBuf>,
    pub(crate) identity_map: Option<PathBuf>,
    pub(crate) strategies: Vec<Strategy>,
    /// The policy of destinations.
    pub(crate) policy: Arc<Gate>,
    pub(crate) dial_limit: Duration,
    /// Limit of a drain.
    pub(crate) grace: Duration,
}

impl TryFrom<Cli> for Config {
    type Error = anyhow::Error;

    fn try_from(args: Cli) -> anyhow::Result<Self> {
        let profiling = args.wire.shared.profiling()?;
        let offer = offer(&args.wire)?;
        let unix = clients::place(&args)?;
        let port = args.server_port.unwrap_or(if unix.is_some() { 0 } else { DEFAULT_SERVER_PORT });
        let tcp = if port == 0 { no_tcp_frontend(&args)? } else { Some(tcp_frontend(&args, port, &offer)?) };
        ensure!(unix.is_some() || tcp.is_some(), "no frontend: give --uds-name, --server-port, or both");
        let admission = clients::admission(&args, tcp.is_some())?;
        let agents = auth::of_agents(&args, &offer)?;
        let expected_nodes: Option<String> = args.operate.expected_nodes.into();
        let rules = identity::rules(&args.identity, &args.proxy_strategies.0, expected_nodes.is_some())?;
        let server_id = match args.server_id {
            id if id.is_empty() => uuid::Uuid::new_v4().to_string(),
            id => id,
        };
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
            admission,
            mode: args.mode,
            server_count: args.server_count,
            agent_transport: args.agent_transport,
            kube: access(&args.kube)?,
            leases: leases::publication(args.leases, &server_id, args.agent_port)?,
            rules,
            expected_nodes,
            admin_socket: args.operate.admin_socket,
            certificates,
            cluster_cert: args.cluster_cert,
            anonymous: args.tokens.insecure_allow_anonymous_agents,
            server_id,
            datagrams: args.wire.shared.datagrams(),
            stalled_memory: args.wire.max_stalled_memory,
            ack_timeout: args.wire.shared.ack_timeout(),
            patience: Patience::default(),
            renewal: PERIOD,
            policy_file: given(&args.policy_file),
            identity_map: given(&args.identity.identity_map),
            strategies: args.proxy_strategies.0,
            policy: Gate::of_file(given(&args.policy_file).as_deref()).context("--policy-file")?,
            dial_limit: match args.backend_dial_timeout {
                Duration::ZERO => LONGEST_DIAL,
                limit => limit,
            },
            grace: args.graceful_shutdown_timeout,
        })
    }
}

/// TLS versions and cipher suites of both listeners.
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

/// Refuses certificates of a frontend that does not exist: the operator expects a port.
fn no_tcp_frontend<T>(args: &Cli) -> anyhow::Result<Option<T>> {
    let useless = [
        ("--server-cert", &args.server_cert),
        ("--server-key", &args.server_key),
        ("--server-ca-cert", &args.server_ca_cert),
        ("--server-crl-file", &args.renewal.server_crl_file),
    ];
    for (flag, path) in useless {
        ensure!(
            given(path).is_none(),
            "{flag} is for the frontend on TCP, and there is none: give --server-port, or leave {flag} out"
        );
    }
    Ok(None)
}

/// Refuses a TCP frontend without client certificates: its clients reach every node.
fn tcp_frontend(args: &Cli, port: u16, offer: &Offer) -> anyhow::Result<(Bind, Kept<Listening>)> {
    ensure!(
        given(&args.server_ca_cert).is_some(),
        "the frontend on TCP port {port} would let anybody reach every node: give --server-ca-cert, the CA \
         of the kube-apiserver's client certificate (or --server-port=0 and --uds-name)"
    );
    ensure!(
        given(&args.server_cert).is_some() && given(&args.server_key).is_some(),
        "the frontend on TCP port {port} needs --server-cert and --server-key"
    );
    let files = TlsFiles {
        cert: ("server-cert", args.server_cert.clone()),
        key: ("server-key", args.server_key.clone()),
        authorities: ("server-ca-cert", args.server_ca_cert.clone()),
        revoked: ("server-crl-file", args.renewal.server_crl_file.clone()),
    };
    let offer = offer.clone();
    let tls = Kept::read(files, move |identity, clients| match (identity, clients) {
        (Some(identity), Some(clients)) => Listening::for_clients(identity, clients, &offer),
        // Refused above.
        (None, _) | (_, None) => Err(TlsError::Config("no certificate, or no authority".to_owned())),
    })?;
    Ok((bind("--server-bind-address", &args.server_bind_address, port)?, tls))
}

fn access(args: &KubeArgs) -> anyhow::Result<Access> {
    Ok(Access {
        kubeconfig: existing("--kubeconfig", &args.kubeconfig)?,
        // Unlike with `Access`, a negative rate is not "no limit" here.
        qps: args.kubeconfig_qps.max(0.0),
        burst: args.kubeconfig_burst,
    })
}
