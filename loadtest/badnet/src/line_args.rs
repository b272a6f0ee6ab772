//! The flags of the line, which all tasks share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::line::Conditions;
use crate::namespaces::Network;

#[derive(Debug, Clone, Args)]
pub(crate) struct LineArgs {
    /// Time that a packet takes, one way.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = time)]
    delay: Duration,
    /// Share of packets that come late, and are overtaken.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    reorder: f64,
    /// By how much they come late.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = time)]
    late: Duration,
    /// Megabits per second of each direction.
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) rate: Option<u64>,
    /// Longest time that packets wait where there is a rate.
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = time)]
    queue: Duration,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// TCP's congestion control in both namespaces; the kernel's default without it.
    #[arg(long, value_name = "NAME", value_parser = ["bbr", "cubic", "reno"])]
    tcp: Option<String>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl LineArgs {
    pub(crate) fn conditions(&self, loss: f64) -> Conditions {
        Conditions {
            delay: self.delay,
            loss,
            reorder: self.reorder,
            late: self.late,
            rate: self.rate.map(|mbit| mbit * 1_000_000),
            queue: self.queue,
        }
    }

    /// The network with this line in it.
    pub(crate) fn network(&self, loss: f64) -> anyhow::Result<Network> {
        Network::new(self.conditions(loss), self.seed, self.tcp.as_deref())
    }
}

/// From 0 to 1.
pub(crate) fn share(text: &str) -> anyhow::Result<f64> {
    let share: f64 = text.parse()?;
    anyhow::ensure!((0.0..=1.0).contains(&share), "not within 0 to 1");
    Ok(share)
}

/// `20ms`, `1.5s`; ten minutes at most.
pub(crate) fn time(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.parse::<f64>()? * unit;
    anyhow::ensure!((0.0..=600.0).contains(&seconds), "not within 0 to 600 seconds");
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(time("20ms").unwrap(), Duration::from_millis(20));
        assert_eq!(time("1.5s").unwrap(), Duration::from_millis(1500));
        assert_eq!(time("2").unwrap(), Duration::from_secs(2));
    }
}
