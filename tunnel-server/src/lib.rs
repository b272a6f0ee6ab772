//! The tunnel server.
//!
//! [`agents`] admits and registers agents. `frontend` serves clients: [`dial`] asks an agent that
//! [`route`] picks, and the frontend relays between its client and the agent's stream.

mod accept;
pub mod agents;
pub mod app;
mod canonical;
pub mod cli;
mod clients;
mod cluster;
pub mod config;
pub mod dial;
mod door;
mod frontend;
pub mod metrics;
mod operate;
mod renew;
pub mod route;
