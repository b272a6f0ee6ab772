//! Log lines about failures that may come in floods.
//!
//! The first line of a kind is written at once. Those of the next ten seconds are counted, and the
//! count stands in the line after them: in the next one of the kind, or in one of its own once the
//! flood is over. At DEBUG every line is written.
//!
//! The log is one in a process, and so are the counts. Kinds are constants, which bounds them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, interval};
use tracing::warn;
use tunnel::drain::Drain;

/// Time between two lines of a kind. With less, a flood fills the disk; with more, an operator who has
/// just changed something sees nothing.
const PAUSE: Duration = Duration::from_secs(10);

/// Something that fails, and why.
pub type Kind = (&'static str, &'static str);

static SELDOM: Seldom = Seldom::new();

/// A line that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Number of lines of the kind that were not, since the last one; `None` for 0.
    pub suppressed: Option<u64>,
}

#[derive(Debug)]
struct Seldom(Mutex<BTreeMap<Kind, Lines>>);

#[derive(Debug)]
struct Lines {
    last: Instant,
    suppressed: u64,
}

/// Whether a line of this kind is written now.
pub fn turn(kind: Kind) -> Option<Line> {
    SELDOM.turn(kind, Instant::now())
}

/// Writes what a flood has left to tell, until the drain is killed. Once in a process is enough.
pub async fn tell_the_rest(drain: Drain) {
    let mut looks = interval(PAUSE);
    loop {
        tokio::select! {
            biased;
            () = drain.killed() => return,
            _ = looks.tick() => {}
        }
        for ((what, why), suppressed) in SELDOM.rest(Instant::now()) {
            warn!(what, why, suppressed, "more of these failures than lines");
        }
    }
}

/// Warns, with the arguments of [`tracing::warn`] after the [`Kind`](crate::seldom::Kind), unless a line
/// of the kind was written just before.
#[macro_export]
macro_rules! warn_seldom {
    ($kind:expr, $($line:tt)+) => {
        match $crate::seldom::turn($kind) {
            Some(line) => ::tracing::warn!(suppressed = line.suppressed, $($line)+),
            None => ::tracing::debug!($($line)+),
        }
    };
}

impl Seldom {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    fn turn(&self, kind: Kind, now: Instant) -> Option<Line> {
        // A panic elsewhere leaves the numbers whole.
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = kinds.get_mut(&kind) else {
            kinds.insert(kind, Lines { last: now, suppressed: 0 });
            return Some(Line { suppressed: None });
        };
        if now.saturating_duration_since(lines.last) < PAUSE {
            lines.suppressed += 1;
            return None;
        }
        lines.last = now;
        let suppressed = std::mem::take(&mut lines.suppressed);
        Some(Line { suppressed: (suppressed > 0).then_some(suppressed) })
    }

    /// The suppressed lines of kinds that may have another line now. Telling of them is that line.
    fn rest(&self, now: Instant) -> Vec<(Kind, u64)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.retain(|_, lines| lines.suppressed > 0 || now.saturating_duration_since(lines.last) < PAUSE);
        let due = kinds
            .iter_mut()
            .filter(|(_, lines)| lines.suppressed > 0 && now.saturating_duration_since(lines.last) >= PAUSE);
        let told = due.map(|(kind, lines)| {
            lines.last = now;
            (*kind, std::mem::take(&mut lines.suppressed))
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBED: Kind = ("agent", "tls");

    #[test]
    fn a_flood_is_a_line_at_once_and_then_one_for_each_pause_that_counts_the_others() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        let mut lines = Vec::new();
        // A hundred a second, for 25 seconds.
        for at in (0..2500).map(|n| start + Duration::from_millis(10) * n) {
            lines.extend(seldom.turn(PROBED, at).map(|line| (at - start, line.suppressed)));
        }
        let seconds = Duration::from_secs;
        assert_eq!(lines, [(seconds(0), None), (seconds(10), Some(999)), (seconds(20), Some(999))]);
        assert_eq!(seldom.turn(("dial", "no_agent"), start), Some(Line { suppressed: None }), "another kind");
        assert_eq!(seldom.rest(start + seconds(25)), []);
        assert_eq!(seldom.rest(start + seconds(30)), [(PROBED, 499)]);
        assert_eq!(seldom.turn(PROBED, start + seconds(31)), None, "the rest was a line");
    }

    #[test]
    fn a_single_failure_leaves_nothing_to_tell_and_nothing_behind() {
        let (seldom, start) = (Seldom::new(), Instant::now());
        assert_eq!(seldom.turn(PROBED, start), Some(Line { suppressed: None }));
        assert_eq!(seldom.rest(start + PAUSE), []);
        assert!(seldom.0.lock().unwrap().is_empty());
    }
}
