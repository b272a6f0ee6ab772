//! Flags. Names and defaults are Konnectivity's where they mean the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tunnel::args::{LogArgs, go_duration, path};

/// Connects this node to the tunnel servers beside the kube-apiservers.
#[derive(Debug, Clone, Parser)]
#[command(name = "tunnel-agent", version, disable_help_subcommand = true)]
pub struct Cli {
    /// CA certificates that tunnel servers are checked against.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub ca_cert: PathBuf,

    /// Client certificate of this agent.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub agent_cert: PathBuf,

    /// Private key of --agent-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub agent_key: PathBuf,

    /// Tunnel servers: host names or addresses, separated by commas, each
    /// with an optional :port. The agent keeps a tunnel to every one of them.
    #[arg(long, value_name = "HOSTS", default_value = "127.0.0.1")]
    pub proxy_server_host: String,

    /// Port of tunnel servers, TCP and UDP alike.
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    pub proxy_server_port: u16,

    /// Link to the servers. `auto` races QUIC and HTTP/2, QUIC a little ahead.
    #[arg(long, value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,

    /// Name of this agent; a random one if empty.
    #[arg(long, value_name = "ID", env = "PROXY_AGENT_ID", default_value = "")]
    pub agent_id: String,

    /// What this agent serves, as a URL query: host=, ipv4=, ipv6=, cidr=
    /// (each repeatable) and default-route=true.
    #[arg(long, value_name = "QUERY", default_value = "")]
    pub agent_identifiers: String,

    /// Address of the health listener; all addresses if empty.
    #[arg(long, value_name = "IP", default_value = "")]
    pub health_server_host: String,

    /// Port of the health listener (/healthz /livez /readyz /metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8093)]
    pub health_server_port: u16,

    /// Address of the admin listener.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub admin_bind_address: String,

    /// Port of the admin listener (/metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8094)]
    pub admin_server_port: u16,

    /// First bound of the random wait before a server is dialled again.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "1s")]
    pub sync_interval: Duration,

    /// Largest bound of that wait; the bound doubles with every failure.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "10s")]
    pub sync_interval_cap: Duration,

    /// How long connections may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "20s")]
    pub graceful_shutdown_timeout: Duration,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Choice of link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// Whichever works, QUIC first.
    Auto,
    /// HTTP/2 over TLS over TCP only.
    H2,
    /// QUIC only.
    Quic,
}
