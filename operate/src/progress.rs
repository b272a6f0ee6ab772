//! One line on standard error while a command waits.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Commands that take no longer print no line: one that flashes by only irritates.
const QUIET: Duration = Duration::from_secs(1);

/// The line. Dropping it erases the line.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    terminal: bool,
    shown: String,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn begin() -> Self {
        Self { began: Instant::now(), terminal: io::stderr().is_terminal(), shown: String::new() }
    }

    /// Waits for `future`, with the line from the first second of the command on.
    pub async fn during<T>(&mut self, text: &str, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        tokio::select! {
            biased;
            result = &mut future => return result,
            () = sleep(QUIET.saturating_sub(self.began.elapsed())) => {}
        }
        self.show(text);
        future.await
    }

    /// On a terminal the line is written over, elsewhere each new one is a line of its own.
    fn show(&mut self, text: &str) {
        if self.shown == text {
            return;
        }
        self.shown = text.to_owned();
        let line = if self.terminal { format!("\r\u{1b}[K{text}") } else { format!("{text}\n") };
        write(&line);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.shown.is_empty() {
            write("\r\u{1b}[K");
        }
    }
}

fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
