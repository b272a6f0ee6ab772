//! All that is printed: results on standard output, complaints and a progress
//! line on standard error. That line overwrites itself on a terminal, and is
//! repeated now and then elsewhere if it says something of a long run.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines of a [`Diary`] that goes to a file.
const ENTRY_EVERY: Duration = Duration::from_secs(5);

/// One line of results.
#[expect(clippy::print_stdout, reason = "the one place that prints results")]
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// One line of complaint.
#[expect(clippy::print_stderr, reason = "the one place that complains")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}

/// A line that says what is going on and overwrites itself.
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

/// Lines that say how far a long run is, for those who read standard error
/// later or elsewhere; on a terminal [`Progress`] says it.
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
