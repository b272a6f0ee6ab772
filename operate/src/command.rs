//! The commands: a module for each, and what they share.
//!
//! Exit codes: 0 well, 1 degraded, 2 down or no answer.

mod doctor;
mod log_level;
mod policy;
mod probe;
mod status;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::time::{Instant, sleep};
use tunnel_program::args::go_duration;

use crate::client::Client;
use crate::output::{Form, print};
use crate::progress::Progress;
use crate::report::Health;
use crate::{Program, client::ClientError};

/// Time between two looks of `--wait`.
const LOOK: Duration = Duration::from_secs(1);

/// Commands of `tunnel-server`.
#[derive(Debug, Clone, Subcommand)]
pub enum ServerCommand {
    /// Show whether this server works: its agents, the nodes that it misses, streams,
    /// certificates. With --kubeconfig all servers, by their Leases, from anywhere and also
    /// while no tunnel works.
    #[command(after_help = status::SERVER_EXAMPLES)]
    Status(status::ServerArgs),
    /// Dial a target through the tunnel as the kube-apiserver does, and show the time of each
    /// stage and the target's certificate.
    #[command(after_help = probe::SERVER_EXAMPLES)]
    Probe(probe::ProbeArgs),
    /// Check everything that a working tunnel needs, from the kube-apiserver's egress file to the
    /// kubelets, and name a cure for each fault.
    #[command(after_help = doctor::SERVER_EXAMPLES)]
    Doctor(doctor::ServerArgs),
    /// Show the level of the log, or set another one for a while. The log tells of it.
    #[command(after_help = log_level::EXAMPLES)]
    LogLevel(log_level::LogLevelArgs),
    /// Work with policies of destinations.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

/// Commands of `tunnel-agent`.
#[derive(Debug, Clone, Subcommand)]
pub enum AgentCommand {
    /// Show whether this agent works: its tunnels, and why others are missing.
    #[command(after_help = status::AGENT_EXAMPLES)]
    Status(status::AgentArgs),
    /// Dial a target from this agent, and show the time of each stage and the target's
    /// certificate.
    #[command(after_help = probe::AGENT_EXAMPLES)]
    Probe(probe::ProbeArgs),
    /// Check everything that this agent needs, from the servers' names to the node's kubelet,
    /// and name a cure for each fault.
    #[command(after_help = doctor::AGENT_EXAMPLES)]
    Doctor(doctor::AgentArgs),
    /// Show the level of the log, or set another one for a while. The log tells of it.
    #[command(after_help = log_level::EXAMPLES)]
    LogLevel(log_level::LogLevelArgs),
    /// Work with policies of destinations.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
}

impl ServerCommand {
    /// Runs the command to its end. Blocks; needs no runtime.
    pub fn run(self) -> ExitCode {
        on_runtime(self.execute())
    }

    /// As [`ServerCommand::run`], on a runtime. Prints to standard output.
    pub async fn execute(self) -> Health {
        match self {
            Self::Status(args) => args.run().await,
            Self::Probe(args) => args.run(Program::Server).await,
            Self::Doctor(args) => Box::pin(args.run()).await,
            Self::LogLevel(args) => args.run(Program::Server).await,
            Self::Policy(command) => command.run().await,
        }
    }
}

impl AgentCommand {
    /// Runs the command to its end. Blocks; needs no runtime.
    pub fn run(self) -> ExitCode {
        on_runtime(self.execute())
    }

    /// As [`AgentCommand::run`], on a runtime. Prints to standard output.
    pub async fn execute(self) -> Health {
        match self {
            Self::Status(args) => args.run().await,
            Self::Probe(args) => args.run(Program::Agent).await,
            Self::Doctor(args) => Box::pin(args.run()).await,
            Self::LogLevel(args) => args.run(Program::Agent).await,
            Self::Policy(command) => command.run().await,
        }
    }
}

fn on_runtime(command: impl Future<Output = Health>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(Box::pin(command)).exit_code()),
        Err(error) => {
            print(&format!("cannot start: {error}\n"));
            ExitCode::from(Health::Down.exit_code())
        }
    }
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
struct CommonArgs {
    /// Admin socket of the running program. Without the flag
    /// /run/tunnel-server/admin.sock or /run/tunnel-agent/admin.sock.
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,

    /// Form of the output.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,

    /// Look every second until all is well, for at most so long; 5m without a value.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, num_args = 0..=1,
          require_equals = true, default_missing_value = "5m")]
    wait: Option<Duration>,
}

impl CommonArgs {
    fn socket(&self, program: Program) -> &Path {
        self.admin_socket.as_deref().unwrap_or_else(|| Path::new(program.socket()))
    }

    fn client(&self, program: Program) -> Client {
        Client::new(self.socket(program))
    }

    /// Looks once or, with `--wait`, until all is well, and prints the last look.
    async fn look<V: View>(&self, mut look: impl AsyncFnMut() -> V) -> Health {
        let mut progress = Progress::begin();
        let began = Instant::now();
        let mut text = "waiting for an answer".to_owned();
        let view = loop {
            let view = progress.during(&text, look()).await;
            let left = self.wait.map_or(Duration::ZERO, |wait| wait.saturating_sub(began.elapsed()));
            if view.health() == Health::Ok || left.is_zero() {
                break view;
            }
            text = format!("waiting: {}", view.fault());
            progress.during(&text, sleep(LOOK.min(left))).await;
        };
        drop(progress);
        match self.output {
            Form::Text => print(&view.text()),
            Form::Json => print(&format!("{}\n", view.json())),
        }
        view.health()
    }
}

/// The result of a command.
trait View: serde::Serialize {
    fn health(&self) -> Health;

    /// The worst fault, in a few words.
    fn fault(&self) -> String;

    fn text(&self) -> String;

    fn json(&self) -> String {
        // Fails for maps with odd keys only, and there are none.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The next thing to do about a program that does not answer.
fn remedy(program: Program, error: &ClientError) -> String {
    match error {
        ClientError::Absent { .. } => format!("start {} with --admin-socket", program.name()),
        ClientError::Denied(_) => format!("sudo {} …", program.name()),
        ClientError::Timeout { .. } | ClientError::Answer { .. } => {
            format!("see the log of {}", program.name())
        }
    }
}
