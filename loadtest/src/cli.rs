//! The command line. Strings become checked values here and nowhere else.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tunnel_client::{Endpoint, Options, Protocol, tls_config};

use crate::bench::Frontend;
use crate::compare::CompareArgs;
use crate::fleet::FleetTask;
use crate::process::Process;
use crate::profile::ProfileArgs;
use crate::scenario::Scenario;
use crate::stall::StallArgs;

/// The name in certificates, unless it is said.
pub(crate) const LOCALHOST: &str = "localhost";

/// Load through a tunnel, and checks of what arrives.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Run scenarios through two or more systems in turn, and tell how they
    /// differ.
    Compare(Box<CompareArgs>),
    /// Start target, server and agent, and run every scenario on every
    /// frontend and link.
    Matrix(MatrixArgs),
    /// Run scenarios through one frontend.
    Run(RunArgs),
    /// Hold connections that stall, for another process of this program.
    #[command(hide = true)]
    Stall(StallArgs),
    /// Be the target that agents connect to.
    Target(TargetArgs),
    #[command(flatten)]
    Fleet(FleetTask),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) frontend: FrontendArgs,
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// Address of a `loadtest target`, as the agent reaches it. Without it one
    /// is started on this machine.
    #[arg(long, value_name = "ADDRESS", requires = "banner_target")]
    pub(crate) target: Option<SocketAddr>,
    /// Its second address, which speaks first.
    #[arg(long, value_name = "ADDRESS", requires = "target")]
    pub(crate) banner_target: Option<SocketAddr>,
    /// A process whose CPU time and memory are counted; may be repeated.
    #[arg(long, value_name = "NAME=PID")]
    pub(crate) pid: Vec<Process>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct FrontendArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// CA certificates of the frontend, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Name that the frontend's certificate must have; for TCP.
    #[arg(long, value_name = "NAME", default_value = LOCALHOST)]
    pub(crate) server_name: String,
}

#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Place {
    /// HTTP CONNECT on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) connect_uds: Option<PathBuf>,
    /// gRPC on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) grpc_uds: Option<PathBuf>,
    /// HTTP CONNECT on this address, with TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) connect_tcp: Option<SocketAddr>,
    /// gRPC on this address, with TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc_tcp: Option<SocketAddr>,
}

impl FrontendArgs {
    /// One that needs nothing but its socket.
    pub(crate) fn unix(protocol: Protocol, path: &Path) -> Self {
        let path = Some(path.to_owned());
        let place = match protocol {
            Protocol::Connect => Place { connect_uds: path, ..Place::default() },
            Protocol::Grpc => Place { grpc_uds: path, ..Place::default() },
        };
        Self { place, ca: None, cert: None, key: None, server_name: LOCALHOST.into() }
    }

    /// The frontend that is meant.
    pub(crate) fn resolve(&self) -> anyhow::Result<Frontend> {
        let Place { connect_uds, grpc_uds, connect_tcp, grpc_tcp } = &self.place;
        let unix = |path: &PathBuf| Ok(Endpoint::unix(path.clone()));
        let (name, protocol, endpoint) = match (connect_uds, grpc_uds, connect_tcp, grpc_tcp) {
            (Some(path), _, _, _) => ("connect-uds", Protocol::Connect, unix(path)),
            (_, Some(path), _, _) => ("grpc-uds", Protocol::Grpc, unix(path)),
            (_, _, Some(address), _) => ("connect-tcp", Protocol::Connect, self.tls(*address)),
            (_, _, _, Some(address)) => ("grpc-tcp", Protocol::Grpc, self.tls(*address)),
            (None, None, None, None) => anyhow::bail!("no frontend is given"),
        };
        let (endpoint, options, flags) = (endpoint?, Options::default(), self.flags());
        Ok(Frontend { name: name.into(), protocol, endpoint, options, flags })
    }

    /// The flags that say the same.
    fn flags(&self) -> Vec<String> {
        let Place { connect_uds, grpc_uds, connect_tcp, grpc_tcp } = &self.place;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let address = |address: &Option<SocketAddr>| address.map(|address| address.to_string());
        let flags = [
            ("connect-uds", path(connect_uds)),
            ("grpc-uds", path(grpc_uds)),
            ("connect-tcp", address(connect_tcp)),
            ("grpc-tcp", address(grpc_tcp)),
            ("ca", path(&self.ca)),
            ("cert", path(&self.cert)),
            ("key", path(&self.key)),
            ("server-name", Some(self.server_name.clone())),
        ];
        flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))).collect()
    }

    fn tls(&self, address: SocketAddr) -> anyhow::Result<Endpoint> {
        let ca = self.ca.as_ref().context("TCP needs --ca")?;
        let cert = self.cert.as_ref().context("TCP needs --cert")?;
        let key = self.key.as_ref().context("TCP needs --key")?;
        let name = self.server_name.clone().try_into().context("--server-name")?;
        Ok(Endpoint::tls(address, name, tls_config(ca, cert, key)?))
    }
}

/// What is run, how long and how often. The default plans nothing, for what only
/// dials.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct Plan {
    /// Which scenarios; without this, all that are not profiles.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Seconds of each measurement, after a fifth of it to warm up.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// bulk: streams at once, beside one alone.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) streams: u32,
    /// dial, bytes: connections under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) workers: u32,
    /// Connections that stall: 64 with isolation, none beside a profile.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    stalled: Option<u32>,
    /// How often the blocks A B B A are run: 3 times with isolation, once with
    /// dial-idle.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// isolation: fails when the download keeps less than this part of its speed.
    #[arg(long, value_name = "RATIO")]
    pub(crate) min_download_ratio: Option<f64>,
    /// isolation: fails when the p99 of the round trip grows by more than this.
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_p99_ratio: Option<f64>,
    /// dial-idle: fails when dials keep less than this part of their rate.
    #[arg(long, value_name = "RATIO")]
    pub(crate) min_dial_ratio: Option<f64>,
    /// bytes: connections of each kind.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
    /// idle, dial-idle: connections.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) idle: u32,
    #[command(flatten)]
    pub(crate) profile: ProfileArgs,
}

impl Plan {
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        if !self.scenario.is_empty() {
            return self.scenario.clone();
        }
        Scenario::value_variants().iter().copied().filter(|scenario| scenario.is_basic()).collect()
    }

    /// Connections that stall with isolation.
    pub(crate) fn stalled(&self) -> u32 {
        self.stalled.unwrap_or(64)
    }

    /// How often isolation runs its blocks: each time gives two ratios, and a
    /// median of fewer than six says little.
    pub(crate) fn rounds_of_isolation(&self) -> u32 {
        self.rounds.unwrap_or(3)
    }

    /// How often dial-idle runs its blocks.
    pub(crate) fn rounds_of_dial_idle(&self) -> u32 {
        self.rounds.unwrap_or(1)
    }

    /// Connections that stall beside a profile.
    pub(crate) fn stalled_beside(&self) -> u32 {
        self.stalled.unwrap_or(0)
    }

    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        self.seconds() / 5
    }

    /// A short one, for tests.
    #[cfg(test)]
    pub(crate) fn short() -> Self {
        Self {
            scenario: Vec::new(),
            seconds: 0.3,
            streams: 4,
            workers: 4,
            stalled: None,
            rounds: Some(1),
            min_download_ratio: None,
            max_p99_ratio: None,
            min_dial_ratio: None,
            count: 20,
            idle: 20,
            profile: ProfileArgs::short(),
        }
    }
}

pub(crate) fn seconds(text: &str) -> anyhow::Result<f64> {
    let seconds: f64 = text.parse()?;
    anyhow::ensure!((0.1..=3600.0).contains(&seconds), "not within 0.1 to 3600");
    Ok(seconds)
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Where to wait for commands.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Where to speak first.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) banner_listen: SocketAddr,
    /// End when standard input ends, so as not to outlive a parent.
    #[arg(long)]
    pub(crate) until_stdin_closes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    pub(crate) plan: Plan,
    /// The server's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-server"))]
    pub(crate) server_bin: PathBuf,
    /// The agent's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-agent"))]
    pub(crate) agent_bin: PathBuf,
    /// Only these links.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::Quic, Link::H2])]
    pub(crate) link: Vec<Link>,
    /// Only these frontends.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = FrontendName::value_variants().to_vec())]
    pub(crate) frontend: Vec<FrontendName>,
    /// Flags added to the server's, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
    /// Flags added to the agent's.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) agent_arg: Vec<String>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Print a Markdown table.
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// The protocol between agent and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Link {
    H2,
    Quic,
}

/// The four ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FrontendName {
    ConnectUds,
    GrpcUds,
    ConnectTcp,
    GrpcTcp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("loadtest run --connect-uds /s --scenario bulk,ping --seconds 1").is_ok());
        assert!(parse("loadtest run --grpc-tcp 127.0.0.1:1 --ca a --cert b --key c").is_ok());
        assert!(parse("loadtest target --listen 127.0.0.1:0").is_ok());
        assert!(parse("loadtest matrix --link quic --markdown").is_ok());
        assert!(parse("loadtest compare --system name=a,connect-uds=/s --ours h2,quic --blocks 8").is_ok());
        assert!(parse("loadtest compare --system name=a,socket=/s").is_err());
        assert!(parse("loadtest compare --ours h2 --blocks 7").is_err());
        assert!(parse("loadtest run").is_err());
        assert!(parse("loadtest run --connect-uds /s --grpc-uds /t").is_err());
        assert!(parse("loadtest run --connect-uds /s --seconds 0").is_err());
        assert!(parse("loadtest run --connect-uds /s --target 127.0.0.1:1").is_err());
    }
}
