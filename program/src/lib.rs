//! The parts of a program that both the tunnel server and the tunnel agent have.
//!
//! * [`args`]: flags as Go programs and Konnectivity's manifests write them;
//! * [`process`]: logging, file limit, allocator, panics, signals;
//! * [`loglevel`]: the level of the log, changed while the program runs;
//! * [`seldom`]: log lines about failures that may come in floods;
//! * [`metering`], [`exposition`]: metrics, and Prometheus' text format;
//! * [`renewal`]: files that are read again while the program runs;
//! * [`admin`]: health, readiness, metrics and debug pages over HTTP.
//!
//! The crate knows nothing of frontends, fleets or dials; [`tunnel`] moves the bytes.

#![warn(missing_docs)]

pub mod admin;
pub mod args;
pub mod exposition;
mod logfile;
pub mod loglevel;
mod logqueue;
pub mod metering;
pub mod process;
pub mod renewal;
pub mod seldom;
