//! The flags of agents, and of a server for them.

use std::path::{Path, PathBuf};

use clap::Args;
use measuring_kit::Link;

use crate::plan::number_within;

/// The agents of one process, or of the processes under it.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentsArgs {
    /// Where the server takes agents: `host:port`.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) server: String,
    /// CA certificates of the server, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: PathBuf,
    /// Certificate of all the agents, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// How many agents.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) count: u32,
    /// Their link.
    #[arg(long, value_enum, default_value_t = Link::Quic)]
    pub(crate) link: Link,
    /// Agents that join per second.
    #[arg(long, default_value_t = 500.0, value_parser = number_within(0.1, 100_000.0))]
    pub(crate) rate: f64,
    /// Agents per second that vanish and return within two seconds.
    #[arg(long, default_value_t = 0.0, value_parser = number_within(0.0, 10_000.0))]
    pub(crate) flap: f64,
    /// Processes that they are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) processes: u32,
    /// Connect to targets, as agents do, instead of echoing in this process.
    #[arg(long)]
    pub(crate) targets: bool,
    /// Prefix of each agent's number in its id.
    #[arg(long, default_value = "simulated")]
    pub(crate) id: String,
    /// Flags added to the agents', such as `--agent-arg=--sync-interval=500ms`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) agent_arg: Vec<String>,
}

/// A server that is started here, and its agents.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoomArgs {
    /// The server's program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-server"))]
    pub(crate) server_bin: PathBuf,
    /// Flags added to the server's, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
    /// Flags added to the agents', such as `--agent-arg=--sync-interval=500ms`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) agent_arg: Vec<String>,
    /// Links of the agents, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::Quic, Link::H2])]
    pub(crate) link: Vec<Link>,
    /// Processes that the agents are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) processes: u32,
    /// Agents that join per second.
    #[arg(long, default_value_t = 500.0, value_parser = number_within(0.1, 100_000.0))]
    pub(crate) rate: f64,
    /// Keep the programs' logs in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl RoomArgs {
    pub(crate) fn log_dir<'a>(&'a self, otherwise: &'a Path) -> &'a Path {
        self.logs.as_deref().unwrap_or(otherwise)
    }
}
