//! The checks of `doctor`.
//!
//! [`gather`] collects [`Facts`](facts::Facts): files, handshakes, answers. Each check is a pure
//! function of them. [`CHECKS`] has their ids and explanations; docs/DOCTOR.md is made of it.

mod agents;
mod checks;
mod control_plane;
mod egress;
mod facts;
mod finding;
pub(crate) mod gather;
mod identity;
mod kubelets;
mod manifest;
mod network;
#[cfg(test)]
mod tests;

use crate::Program;

pub(crate) use checks::CHECKS;
pub(crate) use facts::Facts;
pub(crate) use finding::{Finding, Verdict};

/// A check.
pub(crate) struct Check {
    pub(crate) id: &'static str,
    /// The state that it wants, in words.
    pub(crate) title: &'static str,
    side: Side,
    judge: fn(&Facts, Program) -> Finding,
    pub(crate) symptom: &'static str,
    pub(crate) cause: &'static str,
    pub(crate) cure: &'static str,
}

/// The program that a check is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Agent,
    Both,
}

impl Check {
    pub(crate) fn find(id: &str) -> Option<&'static Self> {
        CHECKS.iter().find(|check| check.id.eq_ignore_ascii_case(id))
    }

    pub(crate) fn is_for(&self, program: Program) -> bool {
        match self.side {
            Side::Server => program == Program::Server,
            Side::Agent => program == Program::Agent,
            Side::Both => true,
        }
    }

    pub(crate) fn judge(&self, facts: &Facts, program: Program) -> Finding {
        (self.judge)(facts, program)
    }

    /// The explanation, as `doctor explain` prints it.
    pub(crate) fn explain(&self) -> String {
        let Self { id, title, symptom, cause, cure, .. } = self;
        let of = match self.side {
            Side::Server => "tunnel-server",
            Side::Agent => "tunnel-agent",
            Side::Both => "tunnel-server, tunnel-agent",
        };
        format!("{id} {title} ({of})\n\nSymptom: {symptom}\nCause: {cause}\nCure: {cure}\n")
    }
}
