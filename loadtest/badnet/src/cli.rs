//! The command line: a list of the tasks.

use clap::{Parser, Subcommand};

use crate::{chaos, check, cut, measure, survive, target};

/// How a tunnel fares on a bad network, which is made here: two namespaces with a line between them that
/// delays, loses, reorders and throttles. Needs root, `ip` and /dev/net/tun.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure the line itself: round trips, losses, packet sizes.
    Check(check::CheckArgs),
    /// Round trips on many streams beside a bulk stream, per link and loss.
    Measure(measure::MeasureArgs),
    /// Streams across a blackout, an address change or a NAT rebinding.
    Survive(survive::SurviveArgs),
    /// New dials and old streams of an agent with --transport=auto where packets vanish or the path moves: a matrix.
    Cut(cut::CutArgs),
    /// Streams beside one event after the other: programs killed and stopped, networks cut, files and disks
    /// exhausted, clocks that jump, an API that lies.
    Chaos(chaos::ChaosArgs),
    /// Send datagrams to a target, and print the times.
    #[command(hide = true)]
    Ping(check::PingArgs),
    /// Be the target that agents connect to.
    #[command(hide = true)]
    Target(target::TargetArgs),
    /// Connect to a server, and say nothing.
    #[command(hide = true)]
    Strangers(chaos::StrangersArgs),
    /// Be a Kubernetes API that reviews tokens, or fails to.
    #[command(hide = true)]
    Api(chaos::ApiArgs),
}

impl Cli {
    /// Performs the task. False when a check failed.
    pub(crate) async fn perform(self) -> anyhow::Result<bool> {
        match self.task {
            Task::Check(args) => check::run(&args),
            Task::Measure(args) => measure::run(&args).await,
            Task::Survive(args) => survive::run(&args).await,
            Task::Cut(args) => cut::run(&args).await,
            Task::Ping(args) => check::ping(&args).await,
            Task::Target(args) => target::run(&args).await,
            Task::Chaos(args) => chaos::run(&args).await,
            Task::Strangers(args) => chaos::be_strangers(&args).await,
            Task::Api(args) => chaos::be_api(&args).await,
        }
    }
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
        assert!(parse("badnet cut --only idle/quic,flows --jobs 3 --strict").is_ok());
        assert!(parse("badnet chaos --events kill,stop-server --seed 7 --strict").is_ok());
        assert!(parse("badnet chaos --events earthquake").is_err());
        assert!(parse("badnet survive").is_err());
        assert!(parse("badnet survive --blackout 30s --address-change").is_err());
        assert!(parse("badnet measure --loss 2").is_err());
        assert!(parse("badnet measure --delay 20h").is_err());
    }
}
