//! The parts of a program that both tunnel server and tunnel agent have.
//!
//! * [`args`]: flags as Go programs and Konnectivity's manifests write them;
//! * [`process`], [`logfile`]: logging, file limit, panics, signals;
//! * [`metering`], [`exposition`]: metrics, and Prometheus' text format;
//! * [`admin`]: health, readiness, metrics and debug pages over HTTP.
//!
//! Knows nothing of frontends, fleets or dials. The bytes are moved by [`tunnel`].

#![warn(missing_docs)]

pub mod admin;
pub mod args;
pub mod exposition;
pub mod logfile;
pub mod metering;
pub mod process;
