//! The programs under test.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// The file `name` beside the running program, so that programs of one build profile
/// are measured together.
pub fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(name)
}

/// Our programs, and flags beside those that a measurement needs.
#[derive(Debug, Clone, Args)]
pub struct Programs {
    /// The server's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = beside("tunnel-server"))]
    pub server_bin: PathBuf,
    /// The agent's program; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = beside("tunnel-agent"))]
    pub agent_bin: PathBuf,
    /// Flags added to the server's, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
    /// Flags added to the agent's.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub agent_arg: Vec<String>,
}

/// The protocol between agent and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "a doc of a variant would be shown by --help")]
pub enum Link {
    H2,
    Quic,
}

impl Link {
    /// The agent's value of `--transport`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
        }
    }
}
