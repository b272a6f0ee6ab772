//! A system that is compared.

use measuring_kit::{Link, Programs};

use crate::frontend::{Frontend, FrontendName};
use crate::process::Process;

#[derive(Debug)]
pub(super) struct System {
    pub(super) name: String,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Origin {
    /// Our programs, started here.
    Ours { programs: Programs, link: Link, frontend: FrontendName },
    /// A system that runs already.
    Running(Reachable),
    /// A program that starts the system, and prints where it is.
    Started(Vec<String>),
}

/// Where a running system is dialled, and its processes.
#[derive(Debug, Clone)]
pub(super) struct Reachable {
    pub(super) frontend: Frontend,
    pub(super) processes: Vec<Process>,
}

impl System {
    /// Whether it can have new processes.
    pub(super) fn is_started_here(&self) -> bool {
        !matches!(self.origin, Origin::Running(_))
    }
}
