//! Failures of an installation.

/// A failure, and the thing to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n  next: {next}")]
pub(crate) struct Fault {
    what: String,
    next: String,
}

impl Fault {
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into() }
    }

    /// The same failure, with more to know about it.
    pub(crate) fn and(self, more: &str) -> Self {
        Self { what: format!("{}; {more}", self.what), next: self.next }
    }
}
