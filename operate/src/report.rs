//! The answers of a program to its commands. Names of fields are interface: `-o json`
//! prints them, and servers publish [`ServerStatus`] in their Lease.
//!
//! Times are seconds before the report, unless the name says otherwise.

mod identities;
mod log_level;
mod setup;

use serde::{Deserialize, Serialize};

pub use identities::{Contested, Identities, MOST_VIOLATIONS, Violation, Watched};
pub use log_level::{LogLevel, LogLevelRequest};
pub use setup::{AgentSetup, Connected, Datagram, MOST_AGENTS, Named, ServerSetup, Setup};

/// Most missing nodes that are named in a report. All of them are counted.
pub const MOST_MISSING: usize = 1000;

/// The state of a program, or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All of it works.
    Ok,
    /// A part does not work, or soon will not.
    Degraded,
    /// Nothing works.
    Down,
}

impl Health {
    /// The exit code of a command that found this.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Degraded => 1,
            Self::Down => 2,
        }
    }

    /// The word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The state that the fault makes.
    pub health: Health,
    /// The fault: what, where, since when.
    pub what: String,
    /// The command to run, or the thing to do.
    pub next: String,
}

/// The status of a program. Tagged from outside: a tag within makes serde compile every field's
/// reader a second time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// A server's.
    Server(ServerStatus),
    /// An agent's.
    Agent(AgentStatus),
}

/// The status of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// The server's id.
    pub id: String,
    /// Version of the program.
    pub version: String,
    /// Time since the start.
    pub up: u64,
    /// No new work is taken.
    pub draining: bool,
    /// Agents that new dials can go to, and the links of their tunnels.
    pub agents: Agents,
    /// Nodes that should have an agent, if `--expected-nodes` names them.
    pub nodes: Option<Nodes>,
    /// Identities of agents, and what they do not prove.
    pub identities: Option<Box<Identities>>,
    /// Open streams, those being dialled included.
    pub streams: usize,
    /// Directions of connections whose receiver has taken nothing for ten seconds.
    pub stalled: u64,
    /// The file of the flags that expires first.
    pub certificate: Option<Expiry>,
}

/// Numbers of agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Agents {
    /// Connected ones: the sum of the links.
    pub connected: usize,
    /// On QUIC.
    pub quic: usize,
    /// On HTTP/2.
    pub h2: usize,
    /// On Konnectivity's protocol.
    pub konnectivity: usize,
    /// Tunnels of silent agents, which get no new dials.
    pub suspect: usize,
}

/// Nodes that should have an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nodes {
    /// The Kubernetes API has listed the nodes.
    pub listed: bool,
    /// Time since the API last reported changes; `None` while the watch works.
    pub stale: Option<u64>,
    /// Number of nodes.
    pub expected: usize,
    /// Number of nodes with a connected agent.
    pub connected: usize,
    /// The nodes without one: at most [`MOST_MISSING`] of them, in a Lease at most 20.
    pub missing: Vec<Missing>,
}

/// A node without a connected agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missing {
    /// Its name.
    pub node: String,
    /// Time since the last sign of its agent or, if there was none, since the node is known.
    pub since: u64,
    /// There was a sign of its agent.
    pub seen: bool,
}

/// A certificate in a file that a flag names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expiry {
    /// The flag.
    pub flag: String,
    /// The file.
    pub file: String,
    /// The certificate's subject.
    pub subject: String,
    /// The moment, in the form of RFC 3339.
    pub not_after: String,
    /// Seconds from the report until the expiry; negative after it.
    pub left: i64,
}

/// The status of an agent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentStatus {
    /// The agent's id.
    pub id: String,
    /// Version of the program.
    pub version: String,
    /// Time since the start.
    pub up: u64,
    /// No new work is taken.
    pub draining: bool,
    /// Servers to which there should be a tunnel.
    pub wanted: usize,
    /// Tunnels to servers.
    pub servers: Vec<Held>,
    /// Addresses that should lead to a server to which there is no tunnel.
    pub not_held: Vec<NotHeld>,
    /// Open connections, those being dialled included.
    pub streams: usize,
    /// Directions of connections whose receiver has taken nothing for ten seconds.
    pub stalled: u64,
    /// The file of the flags that expires first.
    pub certificate: Option<Expiry>,
}

/// A tunnel of an agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// The server's id.
    pub id: String,
    /// The address that was dialled.
    pub address: String,
    /// The link.
    pub link: String,
    /// The reason for this link.
    pub why: String,
    /// Time since the tunnel was made.
    pub since: u64,
    /// Open streams.
    pub streams: usize,
    /// `connected`, `draining`, or `silent`.
    pub state: String,
}

/// An address without a tunnel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NotHeld {
    /// The address, or the name if it could not be resolved.
    pub address: String,
    /// The id of the server to which it last led, if it did.
    pub led_to: Option<String>,
    /// The error of the last failed attempt.
    pub error: Option<String>,
    /// Time since that failure.
    pub failed: Option<u64>,
}

/// The request of `probe` to a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// host:port.
    pub target: String,
    /// TLS on the connection.
    pub tls: TlsMode,
    /// Limit of each of dial and TLS, in milliseconds.
    pub timeout_ms: u64,
}

/// TLS on a probed connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Tried, and no fault if the target does not speak it. Sends the target bytes.
    #[default]
    Auto,
    /// Tried, and a fault if the target does not speak it.
    Always,
    /// Not tried: the target gets no byte.
    Never,
}

/// The result of a probe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReport {
    /// The target that was probed.
    pub target: String,
    /// The id of the server or agent that probed.
    pub from: String,
    /// The stages that succeeded, in order.
    pub stages: Vec<Stage>,
    /// The time of all of it, in microseconds.
    pub total_us: u64,
    /// The certificate of the target, if the target speaks TLS. It is not verified.
    pub certificate: Option<Certificate>,
    /// The failure that ended the probe.
    pub failure: Option<Failure>,
}

/// A stage of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The result, in words.
    pub detail: String,
    /// Its time in microseconds; `None` if it is part of another one's.
    pub took_us: Option<u64>,
}

/// The failed stage of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stage.
    pub stage: String,
    /// The kind of failure, as in metrics.
    pub kind: String,
    /// The error.
    pub text: String,
    /// Degraded if the target was reached, otherwise down.
    pub health: Health,
}

/// A certificate of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// The subject.
    pub subject: String,
    /// Names and addresses of the subjectAltName.
    pub names: Vec<String>,
    /// The issuer.
    pub issuer: String,
    /// The moment of its expiry, in the form of RFC 3339.
    pub not_after: String,
    /// Seconds until the expiry; negative after it.
    pub left: i64,
}
