//! The tunnel agent.
//!
//! It keeps a tunnel to every server there is ([`fleet`], [`connect`]), listens
//! on each ([`session`]), and for every stream that a server opens it dials a
//! target and relays ([`serve`], [`dial`]). [`proxy`] is the way out of networks
//! that have no other. [`embedded`] is an agent inside another program.

pub mod app;
pub mod cli;
pub mod config;
mod connect;
mod dial;
pub mod embedded;
mod fleet;
mod leases;
pub mod metrics;
mod operate;
pub mod proxy;
mod serve;
mod session;
mod way;
