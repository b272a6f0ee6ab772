//! Flags. Names and defaults are Konnectivity's where they mean the same.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tunnel::args::{LogArgs, go_bool, go_duration, path};

use crate::route::Strategy;

/// Lets the kube-apiserver reach nodes, pods and services through agents that
/// dial out.
#[derive(Debug, Parser)]
#[command(name = "tunnel-server", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than running the server.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// The server's flags.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs a server, two agents and a target in this process, without a cluster.
    Demo(DemoArgs),
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// End after the transfers instead of staying up.
    #[arg(long)]
    pub once: bool,
}

/// Flags of the server.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Unix socket for the kube-apiserver.
    #[arg(long, value_name = "PATH", value_parser = path, default_value = "")]
    pub uds_name: PathBuf,

    /// Take over a socket file that exists.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "true",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    pub delete_existing_uds_file: bool,

    /// TCP port for the kube-apiserver, with mutual TLS; 0 is none. Without the
    /// flag: 8090, or none if --uds-name is given.
    #[arg(long, value_name = "PORT")]
    pub server_port: Option<u16>,

    /// Address of --server-port; all addresses if empty.
    #[arg(long, value_name = "IP", default_value = "")]
    pub server_bind_address: String,

    /// Certificate of the TCP frontend.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub server_cert: PathBuf,

    /// Private key of --server-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub server_key: PathBuf,

    /// CA certificates of the TCP frontend's clients.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub server_ca_cert: PathBuf,

    /// Certificate that agents see.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub cluster_cert: PathBuf,

    /// Private key of --cluster-cert.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub cluster_key: PathBuf,

    /// CA certificates of agents.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub cluster_ca_cert: PathBuf,

    /// Port for agents, TCP and UDP.
    #[arg(long, value_name = "PORT", default_value_t = 8091)]
    pub agent_port: u16,

    /// Address of --agent-port; all addresses if empty.
    #[arg(long, value_name = "IP", default_value = "")]
    pub agent_bind_address: String,

    /// Port of the admin listener (/metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8095)]
    pub admin_port: u16,

    /// Address of the admin listener.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub admin_bind_address: String,

    /// Port of the health listener (/healthz /livez /readyz /metrics).
    #[arg(long, value_name = "PORT", default_value_t = 8092)]
    pub health_port: u16,

    /// Address of the health listener; all addresses if empty.
    #[arg(long, value_name = "IP", default_value = "")]
    pub health_bind_address: String,

    /// Serve only one protocol on the frontends; both if not given.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,

    /// Name of this server; a random one if empty.
    #[arg(long, value_name = "ID", env = "PROXY_SERVER_ID", default_value = "")]
    pub server_id: String,

    /// How to find the agent for a target, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "default")]
    pub proxy_strategies: Vec<Strategy>,

    /// Limit of one dial, all agents tried included.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "30s")]
    pub backend_dial_timeout: Duration,

    /// How long connections may go on after SIGTERM.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "20s")]
    pub graceful_shutdown_timeout: Duration,

    /// Threads that carry traffic; 0 chooses: half the cores.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub worker_threads: usize,

    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Protocols of the frontends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Konnectivity's gRPC service only.
    Grpc,
    /// HTTP CONNECT only.
    HttpConnect,
}
