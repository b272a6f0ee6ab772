//! A record of panics in the product.
//!
//! A panic in a task of a server or agent ends that task and, to the test, may
//! look like any closed connection. So a hook records every panic outside the
//! tests' own code. A hook belongs to the process, so the record is global; each
//! test has a runtime of its own and checks the panics on that runtime.

use std::sync::{Mutex, Once, PoisonError};

use tokio::runtime::{Handle, Id};

static INSTALL: Once = Once::new();
static SEEN: Mutex<Vec<(Option<Id>, String)>> = Mutex::new(Vec::new());

/// Installs the hook; further calls do nothing.
pub fn record() {
    INSTALL.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // Assertions of tests have the path of this crate.
            if panic.location().is_none_or(|at| !at.file().starts_with("tests/")) {
                let runtime = Handle::try_current().ok().map(|runtime| runtime.id());
                SEEN.lock().unwrap_or_else(PoisonError::into_inner).push((runtime, panic.to_string()));
            }
            usual(panic);
        }));
    });
}

/// Fails if anything but a test has panicked on this runtime, or outside of any.
pub fn assert_none() {
    let ours = seen();
    assert!(ours.is_empty(), "panics in the product: {ours:#?}");
}

/// The panics on this runtime, or outside of any, but for tests.
pub fn seen() -> Vec<String> {
    let here = Some(Handle::current().id());
    let seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    seen.into_iter().filter(|(at, _)| at.is_none() || *at == here).map(|(_, panic)| panic).collect()
}
