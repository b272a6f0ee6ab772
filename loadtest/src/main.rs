//! A synthetic stream generator for tunnels. It dials through a frontend, as the kube-apiserver does, to a
//! target of its own behind the agent, and measures bulk, round trips, dials, isolation and memory, and
//! checks every byte; or it has the traffic of real clients, or thousands of agents.
//!
//! Every module imports only modules below it:
//!
//! * `cli` lists the tasks;
//! * `tasks` has a module per subcommand, with its arguments, its run and its report;
//! * `scenario` has what is done through a frontend, and `fleet` the agents that `tasks` start; `siege` has
//!   floods of bad peers, and the streams beside them;
//! * `bench` is given to every scenario; `stalled` holds connections for it;
//! * `target` is the other end of the connections; `frontend`, `ours` and `plan` describe a run;
//! * the others measure, count, schedule and print.
//!
//! Exit codes: 0 success, 1 a check or a scenario failed, 2 nothing could be run.

mod bench;
mod bystander;
mod cli;
mod dialing;
mod figures;
mod fleet;
mod frontend;
mod ours;
mod output;
mod pace;
mod payload;
mod plan;
mod process;
mod reasons;
mod report;
mod scenario;
mod schedule;
mod siege;
mod stalled;
mod statistics;
mod stdin;
mod target;
mod tasks;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser as _;
use tikv_jemallocator::Jemalloc;

/// The allocator of the programs under test. It keeps the buffers of bulk for ten seconds, where glibc takes them from the kernel
/// again page by page.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    // Dropping the task ends its children.
    measuring_kit::run("loadtest", cli::Cli::parse().perform())
}
