//! What server and agent ask of the Kubernetes API: whether an agent's
//! service-account token is good, and how many tunnel servers there are.
//!
//! Owns the client, its limits of rate and time, the cache of reviews and the
//! Leases. Its types are plain Rust: nothing of the client library is seen
//! outside. Does not decide what happens to an agent, and counts nothing itself:
//! what it did goes to observers, so that each program has metrics of its own.

mod access;
mod backoff;
mod bucket;
pub mod leases;
mod requests;
pub mod review;
#[cfg(test)]
mod testing;

pub use access::{Access, AccessError, Cluster};
pub use review::{Expected, Reviewed, TokenError, TokenReviewer};
