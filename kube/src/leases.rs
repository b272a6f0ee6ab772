//! Leases: each tunnel server keeps one in the cluster, and agents count them to
//! learn the number of servers. A server may advertise its address there.
//!
//! Names, labels, durations and the rule of validity are Konnectivity's, so its
//! servers and agents and ours count each other. Its agents ignore the address.

mod address;
mod count;
mod event;
mod expiry;
mod publish;
mod read;
#[cfg(test)]
mod tests;

pub use address::{ADDRESS, leads_somewhere};
pub use count::{Counted, Counting, count};
pub use event::{LeaseEvent, Outcome};
pub use publish::{Annotation, Publication, publish};
pub use read::{ListError, Seen, list};
