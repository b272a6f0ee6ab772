//! What the programs that measure (`loadtest`, `badnet`) have in common: how they
//! run and end, and the certificates of the systems that they start.

#![warn(missing_docs)]

mod certificates;
mod program;

pub use certificates::{Certificates, Pair};
pub use program::{beside, run};
