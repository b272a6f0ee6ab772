//! The flags. A flag of Konnectivity keeps its name and default.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use tunnel_operate::command::AgentCommand;
use tunnel_program::args::{List, LogArgs, SharedArgs, at_least_one, go_bool, go_duration, path};

use crate::config::CountSource;

/// Connects this node to the tunnel servers beside the kube-apiservers.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "tunnel-agent",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    // As with Go: of a flag that is given twice, the last value counts.
    args_override_self = true
)]
pub struct Cli {
    /// The command to run instead of the agent.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,

    /// File with the CA certificates of tunnel servers.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) ca_cert: PathBuf,

    /// Certificate revocation lists of --ca-cert, in PEM. An authority without a list
    /// there has revoked nothing.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) crl_file: PathBuf,

    /// File with this agent's client certificate.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) agent_cert: PathBuf,

    /// File with the private key of --agent-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) agent_key: PathBuf,

    /// File with a service account token that authenticates this agent to servers,
    /// read again for every tunnel.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) service_account_token_path: PathBuf,

    /// Tunnel servers: host names or addresses, separated by commas, each with an
    /// optional :port. The agent keeps a tunnel to every address of every name.
    #[arg(long, value_name = "HOSTS", default_value = "127.0.0.1")]
    pub(crate) proxy_server_host: String,

    /// TCP and UDP port of tunnel servers.
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    pub(crate) proxy_server_port: u16,

    /// Link to the servers.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub(crate) transport: Transport,

    /// Bytes that all stalled connections together may hold; beyond it the longest
    /// stalled are closed. 0 is no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20)]
    pub(crate) max_stalled_memory: u64,

    /// ALPN names to offer in front of our own, for load balancers that route by them.
    #[arg(long, value_name = "LIST", default_value = "[]")]
    pub(crate) alpn_proto: Vec<List>,

    /// Id of this agent; a random one if empty.
    #[arg(long, value_name = "ID", env = "PROXY_AGENT_ID", default_value = "")]
    pub(crate) agent_id: String,

    /// Targets that this agent serves, as a URL query: host=, ipv4=, ipv6=, cidr=
    /// (each repeatable) and default-route=true.
    #[arg(long, value_name = "QUERY", default_value = "")]
    pub(crate) agent_identifiers: String,

    /// Address of the health listener; all addresses if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub(crate) health_server_host: String,

    /// Port of the health listener (/healthz /livez /readyz /metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8093)]
    pub(crate) health_server_port: u16,

    /// Address of the admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) admin_bind_address: String,

    /// Port of the admin listener (/metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8094)]
    pub(crate) admin_server_port: u16,

    /// Unix socket of mode 0600 for the commands status, probe and doctor; none if empty. They
    /// look for it at /run/tunnel-agent/admin.sock.
    #[arg(long, value_name = "PATH", value_parser = path, default_value = "")]
    pub admin_socket: PathBuf,

    /// Policy of destinations (docs/POLICY.md). Without a file link-local, metadata, multicast and
    /// unspecified addresses are refused.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) policy_file: PathBuf,

    /// Time limit of connections after SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "20s")]
    pub(crate) graceful_shutdown_timeout: Duration,

    #[command(flatten)]
    pub(crate) shared: SharedArgs,

    /// No effect: buffers are bounded in bytes, not packets.
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "150", hide_short_help = true)]
    xfr_channel_size: u32,

    /// No effect.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    warn_on_channel_limit: bool,

    #[command(flatten)]
    pub(crate) sync: SyncArgs,

    #[command(flatten)]
    pub(crate) count: CountArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags for finding servers and keeping tunnels to them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keeping tunnels")]
pub(crate) struct SyncArgs {
    /// Time between searches for missing servers, and the first bound of the random
    /// back-off before a server is dialled again.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1s")]
    pub(crate) sync_interval: Duration,

    /// Largest bound of the back-off, which grows with every failure.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "10s")]
    pub(crate) sync_interval_cap: Duration,

    /// No effect: the end of a tunnel is noticed at once.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1s")]
    probe_interval: Duration,

    /// Search for servers also while no server is missing.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) sync_forever: bool,

    /// Fail /healthz and /livez once no server has been connected for this time, so that the kubelet
    /// starts the agent anew, with its files and names as they are then. 0s never does.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "0s")]
    pub(crate) unhealthy_after: Duration,

    /// No effect: a silent server is noticed within 15 seconds, Konnectivity's within
    /// a minute.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    keepalive_time: Duration,
}

/// Flags for counting servers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Counting servers")]
pub(crate) struct CountArgs {
    /// Count servers also by their Leases, and dial the addresses that they advertise there.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub(crate) count_server_leases: bool,

    /// Namespace of the Leases.
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    pub(crate) lease_namespace: String,

    /// Label selector of the servers' Leases. Also --lease-label.
    #[arg(long, value_name = "SELECTOR", value_parser = tunnel_program::args::selector, alias = "lease-label",
          default_value = "k8s-app=konnectivity-server")]
    pub(crate) lease_label_selector: String,

    /// Count that holds: `default`, the Leases' if they are counted, otherwise the
    /// servers' own; `max`, the larger one.
    #[arg(long, value_name = "SOURCE", default_value = "default")]
    pub(crate) server_count_source: CountSource,

    /// Kubeconfig for counting Leases; the pod's service account if empty.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) kubeconfig: PathBuf,

    /// No effect: requests are JSON.
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.kubernetes.protobuf",
        hide_short_help = true
    )]
    kube_api_content_type: String,
}

impl Transport {
    /// The value of the flag.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::H2 => "h2",
            Self::Konnectivity => "konnectivity",
            Self::Quic => "quic",
        }
    }
}

/// Choice of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Whichever works, QUIC first.
    Auto,
    /// HTTP/2 over TLS over TCP only.
    H2,
    /// Konnectivity's own protocol only, for its servers.
    Konnectivity,
    /// QUIC only.
    Quic,
}
