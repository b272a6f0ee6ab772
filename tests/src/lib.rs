//! Support for tests that run servers and agents in this process, over real
//! sockets on loopback.
//!
//! * [`Cluster`]: servers and agents, started through their real flags, each
//!   of which a test can drain or kill; [`Frontend`] and
//!   [`for_each_combination`]: the four frontends and the two links;
//! * [`Target`]: servers that agents connect to; [`payload`]: bytes that show their
//!   connection and position; [`Canary`]: a connection that has to survive;
//! * [`TcpOnly`], [`Wire`], [`Balancer`]: paths between agents and servers;
//! * [`Credential`]: client certificates, each of which is refused for another reason;
//! * [`FakeAgent`], [`FakeServer`], [`raw`], [`frames`], [`initials`]: peers that break the protocol;
//! * [`stock`]: Konnectivity's own server and agent, packet by packet;
//! * [`wait_for`], [`within`], [`promptly`]: every wait has a limit, and none is a sleep;
//! * [`panics`]: a panic in the product fails the test that looks.
//!
//! Ports are chosen by the kernel, files are in directories of their own, and
//! the only global state is the record of panics, so tests run at the same time
//! in any order.

#![warn(missing_docs)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot set up its world has to stop, and says where it was"
)]

mod authority;
mod balancer;
mod canary;
mod cluster;
mod credentials;
mod fake_agent;
mod fake_server;
mod forwarder;
pub mod frames;
mod frontend;
pub mod grpc;
mod initials;
pub mod panics;
mod parts;
pub mod payload;
mod pki;
pub mod raw;
mod scrape;
pub mod stock;
mod target;
mod task;
mod wait;

pub use authority::{Authority, Issued};
pub use balancer::Balancer;
pub use canary::Canary;
pub use cluster::{Builder, Cluster, node};
pub use credentials::Credential;
pub use fake_agent::{Answer, FakeAgent, hello, open_tunnel, open_tunnel_from};
pub use fake_server::FakeServer;
pub use forwarder::{TcpOnly, Way, Wire};
pub use frontend::{Frontend, LINKS, for_each_combination};
pub use initials::initials;
pub use parts::{Agent, AgentSpec, Server, ServerSpec};
pub use pki::{FAR_NAME, Pki, Who};
pub use scrape::{Metrics, get};
pub use target::{Gate, Report, Target};
pub use task::{Task, many, spawn};
pub use wait::{LIMIT, promptly, wait_for, wait_within, within};
