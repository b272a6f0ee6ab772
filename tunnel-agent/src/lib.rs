//! The tunnel agent.
//!
//! [`fleet`] keeps a tunnel to every server, [`connect`] establishes one, and [`serve`] and
//! [`dial`] connect each stream of a tunnel to its target. [`proxy`] reaches servers through
//! HTTP proxies. [`embedded`] is an agent inside another program.

pub mod app;
pub mod cli;
pub mod config;
mod connect;
mod course;
mod dial;
pub mod embedded;
mod endpoint;
mod fleet;
mod leases;
pub mod metrics;
mod operate;
pub mod proxy;
mod renew;
mod serve;
