//! The command line. Strings become checked values here and nowhere else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::line::Conditions;

/// How a tunnel fares on a bad network, which is made here: two namespaces with a
/// line between them that delays, loses, reorders and throttles. Needs root, `ip`
/// and /dev/net/tun.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Measure the line itself: round trips, losses, packet sizes.
    Check(CheckArgs),
    /// Round trips on many streams beside a bulk stream, per link and loss.
    Measure(MeasureArgs),
    /// What streams survive: a blackout, another address, a NAT that forgets.
    Survive(SurviveArgs),
    /// Send datagrams to a target, and print the times.
    #[command(hide = true)]
    Ping(PingArgs),
    /// Be the target that agents connect to.
    #[command(hide = true)]
    Target(TargetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LineArgs {
    /// Time that a packet takes, one way.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = time)]
    delay: Duration,
    /// Share of packets that come late, and are overtaken.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    reorder: f64,
    /// By how much they come late.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = time)]
    late: Duration,
    /// Megabits per second of each direction.
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: Option<u64>,
    /// Time that packets wait at most where there is a rate.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time)]
    queue: Duration,
    /// Seed of the dice.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// TCP's congestion control in both namespaces; the kernel's own without it.
    #[arg(long, value_name = "NAME", value_parser = ["bbr", "cubic", "reno"])]
    pub(crate) tcp: Option<String>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl LineArgs {
    pub(crate) fn conditions(&self, loss: f64) -> Conditions {
        Conditions {
            delay: self.delay,
            loss,
            reorder: self.reorder,
            late: self.late,
            rate: self.rate.map(|mbit| mbit * 1_000_000),
            queue: self.queue,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Programs {
    /// The server's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-server"))]
    pub(crate) server_bin: PathBuf,
    /// The agent's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-agent"))]
    pub(crate) agent_bin: PathBuf,
    /// Flags added to the server's, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
    /// Flags added to the agents'.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(crate) agent_arg: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) line: LineArgs,
    /// Share of packets that are lost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub(crate) loss: f64,
    /// Datagrams that are sent.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) count: u32,
}

#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    pub(crate) line: LineArgs,
    #[command(flatten)]
    pub(crate) programs: Programs,
    /// Shares of packets that are lost, in each direction; the first is what the
    /// others are compared with.
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0,0.01", value_parser = share)]
    pub(crate) loss: Vec<f64>,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::H2, Link::Quic])]
    pub(crate) link: Vec<Link>,
    /// Which way the bulk goes, as the client sees it.
    #[arg(long, value_enum, default_value_t = Bulk::Download)]
    pub(crate) bulk: Bulk,
    /// Streams with round trips.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) streams: u32,
    /// Round trips per second on each of them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) pings: u32,
    /// Time before the first block: an agent that finds its server far away makes its
    /// tunnel on quic anew within it.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    pub(crate) settle: Duration,
    /// Seconds of each block.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// How often each link has its block, in turn and in turned order.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Fails when the p99 on quic is more than this part of that on h2, at the
    /// last of the losses.
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_p99_ratio: Option<f64>,
    /// Fails when the bulk stream on quic carries less than this part of what it
    /// carries at the first of the losses, at the last of them.
    #[arg(long, value_name = "RATIO")]
    pub(crate) min_bulk_ratio: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct SurviveArgs {
    #[command(flatten)]
    pub(crate) line: LineArgs,
    #[command(flatten)]
    pub(crate) programs: Programs,
    #[command(flatten)]
    pub(crate) event: EventArgs,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::H2, Link::Quic])]
    pub(crate) link: Vec<Link>,
    /// Share of packets that are lost besides.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub(crate) loss: f64,
    /// Streams on each link.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) streams: u32,
    /// Time between two lines of a stream, in each direction.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time)]
    pub(crate) every: Duration,
    /// Fails unless all streams on quic continue, without a byte lost or repeated.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct EventArgs {
    /// Nothing gets through for so long.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) blackout: Option<Duration>,
    /// The agent's host gets another address, and loses the one it has.
    #[arg(long)]
    pub(crate) address_change: bool,
    /// The agent's connections come from other ports.
    #[arg(long)]
    pub(crate) nat_rebinding: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    pub(crate) target: SocketAddr,
    pub(crate) count: u32,
}

/// The protocol between agent and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Link {
    H2,
    Quic,
}

impl Link {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
        }
    }

    /// The address of the target that leads to the agent on this link.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::H2 => "127.0.0.2",
            Self::Quic => "127.0.0.1",
        }
    }
}

/// The stream beside the round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bulk {
    Download,
    Upload,
    None,
}

fn share(text: &str) -> anyhow::Result<f64> {
    let share: f64 = text.parse()?;
    anyhow::ensure!((0.0..=1.0).contains(&share), "not within 0 to 1");
    Ok(share)
}

/// `20ms`, `1.5s`; ten minutes at most.
fn time(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>()? * unit;
    anyhow::ensure!((0.0..=600.0).contains(&seconds), "not within 0 to 600 seconds");
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("badnet check --delay 20ms --loss 0.01").is_ok());
        assert!(parse("badnet measure --loss 0,0.01 --link quic --bulk upload --tcp cubic").is_ok());
        assert!(parse("badnet survive --blackout 30s").is_ok());
        assert!(parse("badnet survive").is_err());
        assert!(parse("badnet survive --blackout 30s --address-change").is_err());
        assert!(parse("badnet measure --loss 2").is_err());
        assert!(parse("badnet measure --delay 20h").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("20ms").unwrap(), Duration::from_millis(20));
        assert_eq!(time("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(time("2").unwrap(), Duration::from_secs(2));
    }
}
