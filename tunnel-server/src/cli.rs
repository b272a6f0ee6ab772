//! Flags. Names and defaults are Konnectivity's where they mean the same.

mod clients;
mod identity;
mod renewal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel::tls::MinVersion;
use tunnel_install::{Install, Uninstall};
use tunnel_operate::command::ServerCommand;
use tunnel_program::args::{List, LogArgs, SharedArgs, at_least_one, go_bool, go_duration, path, selector};
use tunnel_proto::message::H2_ONLY;

use crate::route::Strategies;
use clients::ClientArgs;
pub(crate) use identity::IdentityArgs;
pub(crate) use renewal::RenewalArgs;

/// Lets the kube-apiserver reach nodes, pods and services through agents that
/// dial out.
#[derive(Debug, Parser)]
#[command(
    name = "tunnel-server",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    // As with Go: of a flag that is given twice, the last value counts.
    args_override_self = true
)]
pub struct Cli {
    /// The command to run instead of the server.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Unix socket for the kube-apiserver.
    #[arg(long, value_name = "PATH", value_parser = path, default_value = "")]
    pub(crate) uds_name: PathBuf,

    /// Replace a socket file that a process which has ended left behind. A socket that a
    /// process listens on is never replaced.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "true",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) delete_existing_uds_file: bool,

    /// TCP port for the kube-apiserver, with mutual TLS; 0 is none. Without the
    /// flag: 8090, or none if --uds-name is given.
    #[arg(long, value_name = "PORT")]
    pub(crate) server_port: Option<u16>,

    /// Address of --server-port; all addresses if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub(crate) server_bind_address: String,

    /// Certificate of the TCP frontend.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) server_cert: PathBuf,

    /// Private key of --server-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) server_key: PathBuf,

    /// CA certificates of the TCP frontend's clients.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) server_ca_cert: PathBuf,

    /// Certificate of the agents' port.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) cluster_cert: PathBuf,

    /// Private key of --cluster-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) cluster_key: PathBuf,

    /// CA certificates of agents.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) cluster_ca_cert: PathBuf,

    /// Port for agents, TCP and UDP.
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    pub(crate) agent_port: u16,

    /// Address of --agent-port; all addresses if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub(crate) agent_bind_address: String,

    /// Link that agents with --transport=auto should use. They are told when they connect; older
    /// ones ignore it.
    #[arg(long, value_enum, default_value_t = AgentTransport::Auto)]
    pub(crate) agent_transport: AgentTransport,

    /// Port of the admin listener (/metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8095)]
    pub(crate) admin_port: u16,

    /// Address of the admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) admin_bind_address: String,

    /// Port of the health listener (/healthz /livez /readyz /metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8092)]
    pub(crate) health_port: u16,

    /// Address of the health listener; all addresses if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub(crate) health_bind_address: String,

    /// Serve only one protocol on the frontends; both if not given.
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// Name of this server; a random one if empty.
    #[arg(long, value_name = "ID", env = "PROXY_SERVER_ID", default_value = "")]
    pub(crate) server_id: String,

    /// Number of servers. Agents keep a tunnel to each of so many.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) server_count: u32,

    /// Strategies that find the agent of a target: default, destHost, destCIDR and
    /// defaultRoute, separated by commas, tried in this order.
    #[arg(long, value_name = "LIST", default_value = "default")]
    pub(crate) proxy_strategies: Strategies,

    /// Policy of destinations (docs/POLICY.md). Without a file link-local, metadata, multicast and
    /// unspecified addresses are refused.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) policy_file: PathBuf,

    /// Limit of one dial, all agents tried included.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "30s")]
    pub(crate) backend_dial_timeout: Duration,

    /// Time that connections may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "20s")]
    pub(crate) graceful_shutdown_timeout: Duration,

    /// Threads that carry traffic; 0 is half the cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub worker_threads: usize,

    #[command(flatten)]
    pub(crate) clients: ClientArgs,

    #[command(flatten)]
    pub(crate) tokens: TokenArgs,

    #[command(flatten)]
    pub(crate) identity: IdentityArgs,

    #[command(flatten)]
    pub(crate) renewal: RenewalArgs,

    #[command(flatten)]
    pub(crate) kube: KubeArgs,

    #[command(flatten)]
    pub(crate) leases: LeaseArgs,

    /// Flags of the commands for people.
    #[command(flatten)]
    pub operate: OperateArgs,

    #[command(flatten)]
    pub(crate) wire: WireArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// The link that agents should use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentTransport {
    /// QUIC where it works.
    Auto,
    /// HTTP/2 over TLS over TCP only.
    H2,
}

impl AgentTransport {
    /// As in [`Welcome::transport`](tunnel_proto::message::Welcome::transport).
    pub(crate) const fn told(self) -> &'static str {
        match self {
            Self::Auto => "",
            Self::H2 => H2_ONLY,
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication of agents by token")]
pub(crate) struct TokenArgs {
    /// Namespace of the agents' service account. Together with
    /// --agent-service-account and --authentication-audience: agents must
    /// present a token of it.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) agent_namespace: String,

    /// The agents' service account.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) agent_service_account: String,

    /// Audience of the agents' tokens.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) authentication_audience: String,

    /// Admit every client of the agents' port as an agent. Agents get the control
    /// plane's traffic.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) insecure_allow_anonymous_agents: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Access to the Kubernetes API")]
pub(crate) struct KubeArgs {
    /// Kubeconfig for reviewing tokens and publishing leases; the pod's service
    /// account if empty.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) kubeconfig: PathBuf,

    /// Requests per second to the kube-apiserver; 0 is 5.
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub(crate) kubeconfig_qps: f32,

    /// Requests to the kube-apiserver that may come at once; 0 is 10.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) kubeconfig_burst: u32,

    /// No effect: requests are JSON.
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.kubernetes.protobuf",
        hide_short_help = true
    )]
    kube_api_content_type: String,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Leases")]
pub(crate) struct LeaseArgs {
    /// Keep a Lease for this server, and delete expired ones of other servers.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) enable_lease_controller: bool,

    /// Address of this server for agents, which its Lease tells to those that count Leases: an IP address, with
    /// or without a port; the port is --agent-port if it has none. Nothing is told if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub(crate) advertise_address: String,

    /// Namespace of the Leases.
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    pub(crate) lease_namespace: String,

    /// Labels of the Leases: key=value, several separated by commas.
    #[arg(long, value_name = "LABELS", default_value = "k8s-app=konnectivity-server")]
    pub(crate) lease_label: String,
}

/// A command of this program besides serving.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Those that ask a running server.
    #[command(flatten)]
    Operate(ServerCommand),
    /// Install the tunnel: on this control plane node, and agents on all nodes.
    #[command(subcommand)]
    Install(Install),
    /// Remove the tunnel, or put back what it replaced.
    #[command(subcommand)]
    Uninstall(Uninstall),
}

impl Command {
    /// Runs the command to its end. Blocks; needs no runtime.
    pub fn run(self) -> ExitCode {
        match self {
            Self::Operate(command) => command.run(),
            Self::Install(install) => install.run(),
            Self::Uninstall(uninstall) => uninstall.run(),
        }
    }
}

/// Flags of the commands for people.
#[derive(Debug, Args)]
#[command(next_help_heading = "Status, probe and doctor")]
pub struct OperateArgs {
    /// Unix socket of mode 0600 for the commands status, probe and doctor; none if empty. They
    /// look for it at /run/tunnel-server/admin.sock.
    #[arg(long, value_name = "PATH", value_parser = path, default_value = "")]
    pub admin_socket: PathBuf,

    /// Which nodes should have an agent: a label selector such as kubernetes.io/os=linux, or
    /// none. Lists and watches nodes.
    #[arg(long, value_name = "SELECTOR", default_value = "none")]
    pub expected_nodes: ExpectedNodes,
}

/// A label selector of nodes, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedNodes(Option<String>);

impl std::str::FromStr for ExpectedNodes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text if text.trim().is_empty() => Err("use none, or a label selector of nodes".to_owned()),
            text => selector(text).map(Some).map(Self).map_err(|error| error.to_string()),
        }
    }
}

impl From<ExpectedNodes> for Option<String> {
    fn from(nodes: ExpectedNodes) -> Self {
        nodes.0
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Protocols and profiling")]
pub(crate) struct WireArgs {
    /// Cipher suites of TLS 1.2, by Go's names; all if empty. Those of TLS 1.3
    /// are always offered.
    #[arg(long, value_name = "LIST", default_value = "[]")]
    pub(crate) cipher_suites: Vec<List>,

    /// Bytes that may wait in this process for receivers which take nothing; beyond
    /// them the longest stalled connections are closed. 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 512 << 20)]
    pub(crate) max_stalled_memory: u64,

    /// Lowest version of TLS: VersionTLS12 (also if empty) or VersionTLS13.
    #[arg(long, value_name = "VERSION", default_value = "")]
    pub(crate) tls_min_version: MinVersion,

    /// No effect: a silent agent is noticed within 15 seconds.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    keepalive_time: Duration,

    /// No effect: sockets report clients that leave, on TCP with keep-alive.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    frontend_keepalive_time: Duration,

    #[command(flatten)]
    pub(crate) shared: SharedArgs,

    /// No effect: the queue of a slow peer is bounded in bytes, not packets.
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "10", hide_short_help = true)]
    xfr_channel_size: u32,

    /// No effect.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "true",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    warn_on_channel_limit: bool,
}

impl Mode {
    /// The value of the flag.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::HttpConnect => "http-connect",
        }
    }
}

/// Protocols of the frontends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Konnectivity's gRPC service only.
    Grpc,
    /// HTTP CONNECT only.
    HttpConnect,
}
