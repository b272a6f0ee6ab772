//! The tunnel server.
//!
//! Agents come in through [`agents`] and are registered; clients come in
//! through [`frontend`]; [`dial`] asks an agent that [`route`] picks, and the
//! frontend relays between its client and the agent's stream.

pub mod agents;
pub mod app;
pub mod cli;
mod cluster;
pub mod config;
pub mod dial;
pub mod frontend;
pub mod metrics;
mod operate;
pub mod route;
