//! Flags. Names and defaults are Konnectivity's where they mean the same.

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
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,

    /// CA certificates that tunnel servers are checked against.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub ca_cert: PathBuf,

    /// Client certificate of this agent, for servers that ask for one.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub agent_cert: PathBuf,

    /// Private key of --agent-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub agent_key: PathBuf,

    /// File with the token that proves to servers who this agent is. It is read
    /// anew for every tunnel.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub service_account_token_path: PathBuf,

    /// Tunnel servers: host names or addresses, separated by commas, each
    /// with an optional :port. The agent keeps a tunnel to every one of them,
    /// and to every address of a name.
    #[arg(long, value_name = "HOSTS", default_value = "127.0.0.1")]
    pub proxy_server_host: String,

    /// Port of tunnel servers, TCP and UDP alike.
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    pub proxy_server_port: u16,

    /// Link to the servers. `auto` races QUIC and HTTP/2, QUIC a little ahead.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,

    /// Bytes that may wait in this process for receivers which take nothing; beyond
    /// that those connections are closed that have stood still for the longest. 0 is
    /// no limit.
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20)]
    pub max_stalled_memory: u64,

    /// More names to offer in TLS (ALPN) in front of our own, for load balancers
    /// that tell connections apart by them.
    #[arg(long, value_name = "LIST", default_value = "[]")]
    pub alpn_proto: Vec<List>,

    /// Name of this agent; a random one if empty.
    #[arg(long, value_name = "ID", env = "PROXY_AGENT_ID", default_value = "")]
    pub agent_id: String,

    /// What this agent serves, as a URL query: host=, ipv4=, ipv6=, cidr=
    /// (each repeatable) and default-route=true.
    #[arg(long, value_name = "QUERY", default_value = "")]
    pub agent_identifiers: String,

    /// Address of the health listener; all addresses if empty.
    #[arg(long, value_name = "ADDRESS", default_value = "")]
    pub health_server_host: String,

    /// Port of the health listener (/healthz /livez /readyz /metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8093)]
    pub health_server_port: u16,

    /// Address of the admin listener.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub admin_bind_address: String,

    /// Port of the admin listener (/metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8094)]
    pub admin_server_port: u16,

    /// Unix socket of mode 0600 for the commands status and probe; none if empty. They look
    /// for it at /run/tunnel-agent/admin.sock.
    #[arg(long, value_name = "PATH", value_parser = path, default_value = "")]
    pub admin_socket: PathBuf,

    /// How long connections may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "20s")]
    pub graceful_shutdown_timeout: Duration,

    /// Flags that mean the same in both programs.
    #[command(flatten)]
    pub shared: SharedArgs,

    /// No effect: what waits for a slow peer is bounded in bytes, not packets.
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "150", hide_short_help = true)]
    xfr_channel_size: u32,

    /// No effect.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    warn_on_channel_limit: bool,

    /// Which tunnels to keep, and when to try again.
    #[command(flatten)]
    pub sync: SyncArgs,

    /// How servers are counted.
    #[command(flatten)]
    pub count: CountArgs,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags about finding servers and keeping tunnels to them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keeping tunnels")]
pub struct SyncArgs {
    /// How often servers that are missing are looked for, and the first bound
    /// of the random wait before a server is dialled again.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1s")]
    pub sync_interval: Duration,

    /// Largest bound of that wait; the bound grows with every failure.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "10s")]
    pub sync_interval_cap: Duration,

    /// No effect: tunnels that end are noticed at once.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1s")]
    probe_interval: Duration,

    /// Go on looking for servers when there is a tunnel to as many as there
    /// should be.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub sync_forever: bool,

    /// No effect: servers that are gone are noticed within 15 seconds,
    /// Konnectivity's within a minute.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1h")]
    keepalive_time: Duration,
}

/// Flags about the number of servers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Counting servers")]
pub struct CountArgs {
    /// Count servers by their Leases, besides by what they say.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub count_server_leases: bool,

    /// Namespace of the Leases.
    #[arg(long, value_name = "NAME", default_value = "kube-system")]
    pub lease_namespace: String,

    /// Which Leases are servers', as a label selector. Also --lease-label.
    #[arg(long, value_name = "SELECTOR", value_parser = tunnel_program::args::selector, alias = "lease-label",
          default_value = "k8s-app=konnectivity-server")]
    pub lease_label_selector: String,

    /// Which count holds: `default`, that of the Leases if they are counted;
    /// `max`, the larger one.
    #[arg(long, value_name = "SOURCE", default_value = "default")]
    pub server_count_source: CountSource,

    /// Kubeconfig for counting Leases; the pod's service account if empty.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub kubeconfig: PathBuf,

    /// No effect: requests are JSON.
    #[arg(
        long,
        value_name = "TYPE",
        default_value = "application/vnd.kubernetes.protobuf",
        hide_short_help = true
    )]
    kube_api_content_type: String,
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
