//! A bad network between a server and its agents, and how the tunnel fares on it: round trips beside a bulk
//! stream under packet loss, streams across a blackout, an address change or a NAT rebinding, new dials wherever packets
//! vanish, and a thousand streams beside everything that goes wrong with programs, networks and hosts.
//!
//! The network is two namespaces with a line between them in user space, because many kernels lack netem.
//! Nothing outside of these namespaces is touched.
//!
//! Exit codes: 0 success, 1 a check failed, 2 nothing could be run.

mod canary;
mod chaos;
mod check;
mod cli;
mod cut;
mod emulator;
mod filter;
mod line;
mod line_args;
mod lines;
mod measure;
mod namespaces;
mod nat;
mod rig;
mod survive;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // Dropping the task ends its children, and deletes the namespaces.
    measuring_kit::run("badnet", cli::Cli::parse().perform())
}
