//! Fleets: thousands of agents that are not programs of their own, and what a
//! server makes of them.
//!
//! The agents are the real agent's code, with its waits and its links, but
//! without listeners, several thousand in a process, and they answer dials
//! themselves. A fleet is spread over processes for the limit of open files.
//! Unlike the rest of this program, this speaks the link of our own server.

mod agents;
mod churn;
mod echo;
mod events;
mod processes;
mod room;
mod scale;
mod storm;
mod streams;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::Link;
use agents::AgentsArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum FleetTask {
    /// Be thousands of agents of a server.
    Agents(AgentsArgs),
    /// Start a server, and dial and close while agents leave and return; tells
    /// whether memory, open files and connections end where they began.
    Churn(churn::ChurnArgs),
    /// Start a server, and hold thousands of agents and idle streams on it: what
    /// each costs, and what the server does when nothing happens.
    Scale(scale::ScaleArgs),
    /// Start a server, end and restart it, and count the seconds until all of
    /// its agents are back.
    Storm(storm::StormArgs),
}

/// Tells whether every check passed.
pub(crate) async fn perform(task: FleetTask) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    let (report, json) = match task {
        FleetTask::Agents(args) => return agents::run(args).await,
        FleetTask::Churn(args) => (Box::pin(churn::run(&args)).await?, args.room.json),
        FleetTask::Scale(args) => (Box::pin(scale::run(&args)).await?, args.room.json),
        FleetTask::Storm(args) => (Box::pin(storm::run(&args)).await?, args.room.json),
    };
    report.deliver(json.as_deref(), false)
}

/// What scenarios with a server of their own have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoomArgs {
    /// The server's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-server"))]
    server_bin: PathBuf,
    /// Flags added to the server's, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_arg: Vec<String>,
    /// Flags added to the agents', such as `--agent-arg=--sync-interval=500ms`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    agent_arg: Vec<String>,
    /// Links of the agents, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::Quic, Link::H2])]
    link: Vec<Link>,
    /// Processes that the agents are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,
    /// Agents that join per second.
    #[arg(long, default_value_t = 500.0, value_parser = agents::rate)]
    rate: f64,
    /// Keep the programs' logs in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl RoomArgs {
    /// Where logs go.
    fn log_dir<'a>(&'a self, otherwise: &'a Path) -> &'a Path {
        self.logs.as_deref().unwrap_or(otherwise)
    }
}
