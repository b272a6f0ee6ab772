//! The command line: a list of the tasks.

use clap::{Parser, Subcommand};

use crate::tasks::{
    agents, churn, compare, flood, matrix, roll, run, scale, scorecard, siege, stall, storm, target,
};

/// Load through a tunnel, and checks of what arrives.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run scenarios through two or more systems in turn, and compare their figures.
    Compare(Box<compare::CompareArgs>),
    /// Start target, server and agent, and run every scenario on every frontend and link.
    Matrix(matrix::MatrixArgs),
    /// Run scenarios through one frontend.
    Run(run::RunArgs),
    /// Hold connections that stall, for another process of this program.
    #[command(hide = true)]
    Stall(stall::StallArgs),
    /// Be the attackers of a siege, for another process of this program.
    #[command(hide = true)]
    Flood(flood::FloodArgs),
    /// Be the target that agents connect to.
    Target(target::TargetArgs),
    /// Be thousands of agents of a server.
    Agents(agents::AgentsTask),
    /// Start a server, and dial and close while agents leave and return; check
    /// that memory, open files and connections end where they began.
    Churn(churn::ChurnArgs),
    /// Start a server, and hold thousands of agents and idle streams on it: the cost
    /// of each, and the server's CPU time while nothing happens.
    Scale(scale::ScaleArgs),
    /// Start servers and agents, and replace one after the other, by another version if it is given, under
    /// dials and streams of which none may fail.
    Roll(roll::RollArgs),
    /// Print docs/SCORECARD.md from the records of trials.
    Scorecard(scorecard::ScorecardArgs),
    /// Start a server and agents, and flood them with bad peers of every kind, one after the other, beside
    /// streams of which none may notice.
    Siege(siege::SiegeArgs),
    /// Start a server, end and restart it, and count the seconds until all of its agents are back.
    Storm(storm::StormArgs),
}

impl Cli {
    /// Performs the task. False when a check or a scenario failed.
    pub(crate) async fn perform(self) -> anyhow::Result<bool> {
        match self.task {
            Task::Compare(args) => compare::run(&args).await,
            Task::Matrix(args) => matrix::run(&args).await,
            Task::Run(args) => run::run(&args).await,
            Task::Stall(args) => stall::run(&args).await,
            Task::Flood(args) => flood::run(&args).await,
            Task::Target(args) => target::run(&args).await,
            Task::Agents(args) => agents::run(&args).await,
            Task::Churn(args) => churn::run(&args).await,
            Task::Scale(args) => scale::run(&args).await,
            Task::Roll(args) => roll::run(&args).await,
            Task::Scorecard(args) => scorecard::run(&args),
            Task::Siege(args) => siege::run(&args).await,
            Task::Storm(args) => storm::run(&args).await,
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
        assert!(parse("loadtest scale --agents 100 --first 10 --streams 20 --connect 10 --link h2").is_ok());
        assert!(parse("loadtest storm --how kill --rounds 2 --max-seconds 3").is_ok());
        assert!(parse("loadtest roll --servers 2 --agents 2 --old-agent-bin /a").is_ok());
        assert!(
            parse("loadtest siege --flood calls,tls --seconds 1 --max-ms 500 --max-median-ms 50").is_ok()
        );
        assert!(parse("loadtest churn --minutes 1 --parts 2 --flap 0").is_ok());
        assert!(parse("loadtest agents").is_err());
        assert!(parse("loadtest churn --minutes 0").is_err());
        assert!(parse("loadtest agents --server a:1 --ca a --cert b --key c --streams 5").is_err());
    }
}
