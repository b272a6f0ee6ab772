//! Leases: each tunnel server keeps one in the cluster, and agents count them to
//! learn the number of servers.
//!
//! Names, labels, durations and the rule of validity are Konnectivity's, so its
//! servers and agents and ours count each other.

mod count;
mod event;
mod expiry;
mod publish;
mod read;
#[cfg(test)]
mod tests;

pub use count::{Counting, count};
pub use event::{LeaseEvent, Outcome};
pub use publish::{Annotation, Publication, publish};
pub use read::{ListError, Seen, list};
