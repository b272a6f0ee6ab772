//! The commands for people that both programs have, and the admin socket behind them.
//!
//! * [`report`]: the answers of a program, as commands read them and `-o json` prints them;
//! * [`judge`]: the state of a report, and the command to run next;
//! * [`api`], [`socket`]: the program's side of the admin socket; [`client`] the command's;
//! * [`command`]: a module per command;
//! * [`summary`]: a status in a Lease;
//! * [`certificate`], [`peek`]: expiries of files, and the certificate of a target;
//! * `doctor`: the checks of `doctor`, and the facts that they judge.
//!
//! Knows neither server nor agent: they hand their reports in through [`api::Answers`].

#![warn(missing_docs)]

pub mod api;
pub mod certificate;
pub mod client;
pub mod command;
mod doctor;
pub mod judge;
mod output;
pub mod peek;
pub mod progress;
pub mod report;
pub mod socket;
pub mod summary;
mod witness;

/// A program that has an admin socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `tunnel-server`.
    Server,
    /// `tunnel-agent`.
    Agent,
}

impl Program {
    /// The name of its binary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Server => "tunnel-server",
            Self::Agent => "tunnel-agent",
        }
    }

    /// The path at which commands look for its admin socket.
    pub const fn socket(self) -> &'static str {
        match self {
            Self::Server => "/run/tunnel-server/admin.sock",
            Self::Agent => "/run/tunnel-agent/admin.sock",
        }
    }
}
