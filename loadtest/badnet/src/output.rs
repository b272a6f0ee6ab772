//! The one place that prints.

use std::io::Write as _;

/// A line of the result.
pub(crate) fn say(text: &str) {
    // Nobody is left to tell if it fails.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line beside it.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
