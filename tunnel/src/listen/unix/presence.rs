//! Whether clients find a socket at its path.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

/// A change of a socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Clients find the socket.
    Found,
    /// The file was gone, and was made again.
    Remade,
    /// Clients do not find the socket.
    Lost,
}

/// Hears of changes, in the task that accepts.
pub type Observer = Box<dyn Fn(Change) + Send + Sync>;

/// Whether clients find a socket at its path. Clones are of the same socket.
#[derive(Clone)]
pub struct Presence(Arc<State>);

struct State {
    fault: Mutex<Option<String>>,
    observer: Observer,
}

impl Presence {
    pub(super) fn new(observer: Observer) -> Self {
        observer(Change::Found);
        Self(Arc::new(State { fault: Mutex::default(), observer }))
    }

    /// Why clients do not find the socket; `None` if they do.
    pub fn fault(&self) -> Option<String> {
        self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn found(&self) {
        if self.set(None).is_some() {
            (self.0.observer)(Change::Found);
        }
    }

    pub(super) fn remade(&self) {
        self.set(None);
        (self.0.observer)(Change::Remade);
    }

    /// Warns once of each fault.
    pub(super) fn lost(&self, fault: String) {
        if self.set(Some(fault.clone())).as_ref() != Some(&fault) {
            warn!("{fault}");
            (self.0.observer)(Change::Lost);
        }
    }

    pub(super) fn closed(&self) {
        self.set(Some("the socket is closed".to_owned()));
        (self.0.observer)(Change::Lost);
    }

    /// Returns the fault of before.
    fn set(&self, fault: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.0.fault.lock().unwrap_or_else(PoisonError::into_inner), fault)
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("fault", &self.fault()).finish_non_exhaustive()
    }
}
