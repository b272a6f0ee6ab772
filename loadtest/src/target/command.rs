//! The command: the first line on a connection to the target.

use std::fmt;
use std::str::FromStr;

use super::lines::Lines;

/// Longest line, in bytes, its end included.
pub(crate) const MAX_LINE: usize = 128;

/// The target's part on the rest of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Read to the end, and keep the tally under this number for [`Self::Tally`].
    Deposit(u64),
    /// Read for ever, unhashed; send the count so far every [`REPORT_EVERY`] bytes, as 8 bytes big endian.
    Discard,
    /// Send one byte once nothing has moved on any [`Self::Flood`] of this number for a while.
    Ebb(u64),
    /// Send back what arrives.
    Echo,
    /// Send zeros for ever, and note under this number when bytes moved.
    Flood(u64),
    /// Send lines by a schedule, without an end.
    Lines(Lines),
    /// Reset every [`Self::Stall`] of this number, and send one byte.
    Release(u64),
    /// Answer requests that say how long they and their answers are.
    Serve,
    /// Echo every key, and print behind every newline.
    Shell,
    /// Read this many bytes, send `COUNT HASH\n`, end. For clients without a half-close.
    Sink(u64),
    /// Read to the end, send `COUNT HASH\n`, end.
    SinkToEnd,
    /// Send `count` bytes of a payload, end.
    Source {
        /// Bytes.
        count: u64,
        /// See [`Payload`](crate::payload::Payload).
        seed: u64,
    },
    /// Do not read until this number is released.
    Stall(u64),
    /// Send the `COUNT HASH\n` of a deposit once it has ended.
    Tally(u64),
    /// Send zeros for ever.
    Zeros,
}

/// Bytes that a [`Command::Discard`] takes between two reports. Fewer make the reports a part of the figures;
/// more make the figures coarse.
pub(crate) const REPORT_EVERY: u64 = 4 << 20;

impl Command {
    /// The line, with its end.
    pub(crate) fn line(self) -> String {
        format!("{self}\n")
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deposit(token) => write!(f, "deposit {token}"),
            Self::Discard => f.write_str("discard"),
            Self::Ebb(token) => write!(f, "ebb {token}"),
            Self::Echo => f.write_str("echo"),
            Self::Flood(token) => write!(f, "flood {token}"),
            Self::Lines(lines) => write!(f, "lines {lines}"),
            Self::Release(token) => write!(f, "release {token}"),
            Self::Serve => f.write_str("serve"),
            Self::Shell => f.write_str("shell"),
            Self::Sink(count) => write!(f, "sink {count}"),
            Self::SinkToEnd => f.write_str("sink"),
            Self::Source { count, seed } => write!(f, "source {count} {seed}"),
            Self::Stall(token) => write!(f, "stall {token}"),
            Self::Tally(token) => write!(f, "tally {token}"),
            Self::Zeros => f.write_str("zeros"),
        }
    }
}

impl FromStr for Command {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        if let Some(lines) = line.strip_prefix("lines ") {
            return Ok(Self::Lines(lines.parse()?));
        }
        let parts: Vec<&str> = line.split(' ').collect();
        Ok(match parts.as_slice() {
            ["deposit", token] => Self::Deposit(token.parse()?),
            ["discard"] => Self::Discard,
            ["ebb", token] => Self::Ebb(token.parse()?),
            ["echo"] => Self::Echo,
            ["flood", token] => Self::Flood(token.parse()?),
            ["release", token] => Self::Release(token.parse()?),
            ["serve"] => Self::Serve,
            ["shell"] => Self::Shell,
            ["sink", count] => Self::Sink(count.parse()?),
            ["sink"] => Self::SinkToEnd,
            ["source", count, seed] => Self::Source { count: count.parse()?, seed: seed.parse()? },
            ["stall", token] => Self::Stall(token.parse()?),
            ["tally", token] => Self::Tally(token.parse()?),
            ["zeros"] => Self::Zeros,
            _ => anyhow::bail!("unknown command {line:?}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Gaps;

    #[test]
    fn every_command_survives_its_line() {
        for command in [
            Command::Deposit(u64::MAX),
            Command::Discard,
            Command::Ebb(u64::MAX),
            Command::Echo,
            Command::Flood(0),
            Command::Lines(Lines { gaps: Gaps::Poisson, mean: u64::MAX, size: 65_536, seed: u64::MAX }),
            Command::Release(5),
            Command::Serve,
            Command::Shell,
            Command::Sink(7),
            Command::SinkToEnd,
            Command::Source { count: u64::MAX, seed: u64::MAX },
            Command::Stall(u64::MAX),
            Command::Tally(3),
            Command::Zeros,
        ] {
            let line = command.line();
            assert!(line.len() <= MAX_LINE);
            assert_eq!(line.trim_end().parse::<Command>().unwrap(), command);
        }
        for line in ["", "ECHO", "source 1", "sink -1", "echo ", "tally"] {
            assert!(line.parse::<Command>().is_err(), "{line:?}");
        }
    }
}
