//! Lines that the target sends by a schedule.
//!
//! Client and target make the same schedule, which begins when the client asks. So the latency of a line is
//! the way of the question and the way of the line, and needs no shared clock.

use std::str::FromStr;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::pace;
use crate::schedule::{Gaps, Random, Schedule};

/// Shortest line, in bytes: its number, a blank and its end.
const LEAST_SIZE: usize = 22;

/// Longest line, in bytes.
const MOST_SIZE: usize = 64 * 1024;

/// The lines of one connection; they have no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) gaps: Gaps,
    /// Mean gap, in microseconds.
    pub(crate) mean: u64,
    /// Bytes per line, its end included.
    pub(crate) size: usize,
    pub(crate) seed: u64,
}

impl Lines {
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule::new(self.gaps, Duration::from_micros(self.mean), Random::new(self.seed))
    }

    /// The bytes of one line.
    pub(crate) fn line(&self, number: u64) -> Vec<u8> {
        let mut line = format!("{number:>20} ").into_bytes();
        line.resize(self.size - 1, b'.');
        line.push(b'\n');
        line
    }

    /// Sends each line at its moment, or as soon after it as there is room.
    pub(super) async fn serve(self, mut socket: TcpStream) -> anyhow::Result<()> {
        let start = Instant::now();
        for (number, offset) in (0..).zip(self.schedule()) {
            tokio::select! {
                biased;
                // Between two events of a watch the client may leave.
                ended = socket.readable() => {
                    ended?;
                    let mut byte = [0];
                    anyhow::ensure!(socket.try_read(&mut byte).is_err(), "the client left, or said more");
                    pace::until(start + offset).await;
                }
                () = pace::until(start + offset) => {}
            }
            socket.write_all(&self.line(number)).await?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gaps = match self.gaps {
            Gaps::Poisson => "poisson",
            Gaps::Steady => "steady",
        };
        write!(f, "{gaps} {} {} {}", self.mean, self.size, self.seed)
    }
}

impl FromStr for Lines {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(' ').collect();
        let &[gaps, mean, size, seed] = parts.as_slice() else {
            anyhow::bail!("not GAPS MICROSECONDS SIZE SEED: {text:?}");
        };
        let gaps = match gaps {
            "poisson" => Gaps::Poisson,
            "steady" => Gaps::Steady,
            _ => anyhow::bail!("unknown gaps {gaps:?}"),
        };
        let lines = Self { gaps, mean: mean.parse()?, size: size.parse()?, seed: seed.parse()? };
        anyhow::ensure!((LEAST_SIZE..=MOST_SIZE).contains(&lines.size), "lines of {} bytes", lines.size);
        anyhow::ensure!(lines.mean >= 10, "a line every {} us", lines.mean);
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_survives_its_text() {
        for gaps in [Gaps::Poisson, Gaps::Steady] {
            let lines = Lines { gaps, mean: 20_000, size: 120, seed: u64::MAX };
            assert_eq!(lines.to_string().parse::<Lines>().unwrap(), lines);
        }
        for bad in
            ["", "steady 1 2", "odd 20000 120 1", "steady 20000 3 1", "steady 0 120 1", "steady -1 120 1"]
        {
            assert!(bad.parse::<Lines>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_have_their_size_and_number() {
        let of = |size| Lines { gaps: Gaps::Steady, mean: 10, size, seed: 1 };
        assert_eq!(of(LEAST_SIZE).line(7), b"                   7 \n");
        assert_eq!(of(120).line(u64::MAX).len(), 120);
        assert_ne!(of(30).line(1), of(30).line(2));
    }
}
