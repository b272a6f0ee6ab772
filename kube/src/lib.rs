//! Requests to the Kubernetes API: reviews of agents' service-account tokens, the Leases
//! of tunnel servers, and the list of nodes.
//!
//! Owns the client, its limits of rate and time, the verdicts and the Leases. Hides
//! the client library's types. Does not decide what happens to an agent, and keeps
//! no metrics: its events go to observers.

mod access;
mod backoff;
mod bucket;
mod clock;
pub mod leases;
pub mod nodes;
mod requests;
pub mod review;
#[cfg(test)]
mod testing;

pub use access::{Access, AccessError, Cluster};
pub use review::{Expected, Reviewed, TokenError, TokenReviewer};

/// Receives the events of reviews or Leases.
pub type Observe<E> = std::sync::Arc<dyn Fn(E) + Send + Sync>;
