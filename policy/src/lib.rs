//! Destinations that may be dialled. docs/POLICY.md describes the file and its rules.
//!
//! [`Policy`] decides about one destination, without a socket or a clock. [`Gate`] is a program's
//! policy, which can be replaced while it is in use, with the audit log of what it refuses.
//! [`spelling`] reads the forms of an address that resolvers take besides the usual one.

mod decide;
mod file;
mod gate;
mod index;
mod rule;
mod special;
pub mod spelling;
#[cfg(test)]
mod tests;

pub use decide::{Policy, Subject, Verdict};
pub use file::PolicyError;
pub use gate::{Denied, Gate};
