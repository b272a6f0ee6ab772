//! Lines on standard output, and questions.

use std::io::{self, IsTerminal as _, Write as _};

use crate::fault::Fault;

/// A line. A reader that has left wants no more.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Asks for a yes on the terminal.
///
/// # Errors
/// When the answer is another one, or nobody can answer.
pub(crate) fn confirm(question: &str) -> Result<(), Fault> {
    if !io::stdin().is_terminal() {
        return Err(Fault::new("nothing was changed: standard input is no terminal", "add --yes"));
    }
    let mut out = io::stdout().lock();
    let _ = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        _ => Err(Fault::new("nothing was changed", "run it again and answer y")),
    }
}
