//! Progress on standard error: a line that overwrites itself on a terminal, and lines now and then elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use measuring_kit::complain;
use tokio::time::Instant;

/// Time between two lines of a [`Diary`]: a run of an hour gives 720 of them.
const ENTRY_EVERY: Duration = Duration::from_secs(5);

/// A progress line that overwrites itself; nothing unless standard error is a terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    pub(crate) fn show(self, text: &str) {
        if self.shown {
            // A terminal that is gone is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    pub(crate) fn clear(self) {
        self.show("");
    }
}

/// Progress lines of a long run; nothing if standard error is a terminal.
#[derive(Debug, Default)]
pub(crate) struct Diary {
    last: Option<Instant>,
}

impl Diary {
    pub(crate) fn note(&mut self, text: &str) {
        if !io::stderr().is_terminal() && self.last.is_none_or(|last| last.elapsed() >= ENTRY_EVERY) {
            self.last = Some(Instant::now());
            complain(text);
        }
    }
}
