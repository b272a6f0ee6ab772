//! All that is printed: results on standard output, complaints and a progress
//! line on standard error, the latter only if that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};

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
