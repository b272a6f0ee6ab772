//! The answers of a program to its commands. Names of fields are interface: `-o json`
//! prints them, and servers publish [`ServerStatus`] in their Lease.
//!
//! Times are seconds before the report, unless the name says otherwise.

mod setup;

use serde::{Deserialize, Serialize};

pub use setup::{AgentSetup, Connected, Datagram, MOST_AGENTS, Named, ServerSetup, Setup};

/// Most missing nodes that are named in a report. All of them are counted.
pub const MOST_MISSING: usize = 1000;

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All of it.
    Ok,
    /// Some of it.
    Degraded,
    /// None of it.
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

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// How bad it is.
    pub health: Health,
    /// The fault: what, where, since when.
    pub what: String,
    /// The command to run, or the thing to do.
    pub next: String,
}

/// The status of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "program", rename_all = "lowercase")]
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
    /// Whether the Kubernetes API has listed them.
    pub listed: bool,
    /// Time since the API last told of changes; `None` while it does.
    pub stale: Option<u64>,
    /// How many there are.
    pub expected: usize,
    /// How many of them have a connected agent.
    pub connected: usize,
    /// The others: at most [`MOST_MISSING`] of them, in a Lease at most 20.
    pub missing: Vec<Missing>,
}

/// A node without a connected agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Missing {
    /// Its name.
    pub node: String,
    /// Time since its agent was last heard of or, if it never was, since the node is known.
    pub since: u64,
    /// Whether its agent was heard of.
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
    /// Whose it is.
    pub subject: String,
    /// The moment, in the form of RFC 3339.
    pub not_after: String,
    /// Seconds from the report until then; negative once it is over.
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
    /// Why it is this link.
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
    /// Why the last attempt failed, if one did.
    pub error: Option<String>,
    /// When that was.
    pub failed: Option<u64>,
}

/// What `probe` asks of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// host:port.
    pub target: String,
    /// Whether to try TLS on the connection.
    pub tls: TlsMode,
    /// Limit of each of dial and TLS, in milliseconds.
    pub timeout_ms: u64,
}

/// Whether TLS is tried on a connection.
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

/// What a probe found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReport {
    /// What was probed.
    pub target: String,
    /// The id of the server or agent that probed.
    pub from: String,
    /// The stages that succeeded, in order.
    pub stages: Vec<Stage>,
    /// The time of all of it, in microseconds.
    pub total_us: u64,
    /// The certificate of the target, if it speaks TLS. Nobody has verified it.
    pub certificate: Option<Certificate>,
    /// Why it went no further.
    pub failure: Option<Failure>,
}

/// One stage of a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What came out.
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
    /// Whether the target was reached all the same.
    pub health: Health,
}

/// A certificate of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// The moment of its expiry, in the form of RFC 3339.
    pub not_after: String,
    /// Seconds until then; negative once it is over.
    pub left: i64,
}
