//! The parts that `loadtest` and `badnet` share: the programs under test, their certificates and processes;
//! printing; signals and exit codes.

#![warn(missing_docs)]

mod certificates;
mod child;
mod output;
mod programs;
mod run;
mod score;

pub use certificates::{Certificates, Pair};
pub use child::{Child, get};
pub use output::{complain, say, write_json};
pub use programs::{Link, Programs, beside};
pub use run::run;
pub use score::{Record, Score, ScoreArgs};
