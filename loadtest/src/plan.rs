//! The plan of a run: which scenarios, how long and how often.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// A scenario by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// Memory and CPU time of connections that do nothing. The first one, because
    /// memory that others needed and gave back would hide its cost.
    Idle,
    /// Download and upload as fast as it goes, with one stream and with many.
    Bulk,
    /// One-byte round trips, one after the other.
    Ping,
    /// One-byte round trips beside a download on the same agent.
    PingBulk,
    /// Dial, one byte there and back, close; with many workers.
    Dial,
    /// Download and round trips beside connections that stall on the same agent.
    Isolation,
    /// Every byte arrives, whichever end closes or speaks first.
    Bytes,
    /// Dials beside many connections that do nothing, and without them.
    DialIdle,
    /// Profile: files both ways, hashed.
    Cp,
    /// Profile: keys typed into shells, with their echo.
    Exec,
    /// Profile: lines of logs that are followed.
    Logs,
    /// Profile: all other profiles at once.
    Mixed,
    /// Profile: many small answers in parallel, and large ones.
    PortForward,
    /// Profile: medium downloads, each on a new connection.
    Scrape,
    /// Profile: many connections that are idle but for an event now and then.
    Watch,
    /// Profile: bursts of short dials.
    Webhook,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Ping => "ping",
            Self::PingBulk => "ping-bulk",
            Self::Dial => "dial",
            Self::Isolation => "isolation",
            Self::Bytes => "bytes",
            Self::Idle => "idle",
            Self::DialIdle => "dial-idle",
            Self::Cp => "cp",
            Self::Exec => "exec",
            Self::Logs => "logs",
            Self::Mixed => "mixed",
            Self::PortForward => "port-forward",
            Self::Scrape => "scrape",
            Self::Watch => "watch",
            Self::Webhook => "webhook",
        }
    }
}

/// The scenarios of a run without `--scenario`, in this order.
const BASIC: [Scenario; 6] =
    [Scenario::Idle, Scenario::Bulk, Scenario::Ping, Scenario::Dial, Scenario::Isolation, Scenario::Bytes];

/// The plan of a run. The default one is for processes that dial without a scenario.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct Plan {
    /// Which scenarios; without this, all that are not profiles.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Seconds of each measurement, after a fifth of it to warm up.
    #[arg(long, default_value_t = 5.0, value_parser = number_within(0.1, 3600.0))]
    seconds: f64,
    /// bulk: streams at once, beside one alone.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) streams: u32,
    /// dial, bytes: connections under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) workers: u32,
    /// Connections that stall: 64 with isolation, none beside a profile.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    stalled: Option<u32>,
    /// How often the blocks A B B A are run: 3 times with isolation, once with dial-idle.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// isolation: fails when the download keeps less than this part of its speed.
    #[arg(long, value_name = "RATIO")]
    pub(crate) min_download_ratio: Option<f64>,
    /// isolation: fails when the p99 of the round trip grows by more than this.
    #[arg(long, value_name = "RATIO")]
    pub(crate) max_p99_ratio: Option<f64>,
    /// dial-idle: fails when dials keep less than this part of their rate.
    #[arg(long, value_name = "RATIO")]
    pub(crate) min_dial_ratio: Option<f64>,
    /// bytes: connections of each kind.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) count: u32,
    /// idle, dial-idle: connections.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) idle: u32,
    #[command(flatten)]
    pub(crate) profile: ProfileArgs,
}

/// The flags of all profiles.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct ProfileArgs {
    /// Profiles: how many users, followers and requests, compared with those of a
    /// cluster of some hundred nodes.
    #[arg(long, default_value_t = 1.0, value_parser = number_within(0.01, 1000.0))]
    pub(crate) scale: f64,
    /// Profiles: the same number gives the same schedule.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Profiles: connections beside them whose bytes are hashed at both ends.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) canaries: u32,
}

impl Plan {
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        if self.scenario.is_empty() { BASIC.to_vec() } else { self.scenario.clone() }
    }

    /// Connections that stall with isolation.
    pub(crate) fn stalled(&self) -> u32 {
        self.stalled.unwrap_or(64)
    }

    /// Connections that stall beside a profile.
    pub(crate) fn stalled_beside(&self) -> u32 {
        self.stalled.unwrap_or(0)
    }

    /// Rounds of isolation: each gives two ratios, and a median of fewer than six says little.
    pub(crate) fn rounds_of_isolation(&self) -> u32 {
        self.rounds.unwrap_or(3)
    }

    /// Rounds of dial-idle.
    pub(crate) fn rounds_of_dial_idle(&self) -> u32 {
        self.rounds.unwrap_or(1)
    }

    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        self.seconds() / 5
    }

    /// A short plan, for tests.
    #[cfg(test)]
    pub(crate) fn short() -> Self {
        Self {
            seconds: 0.3,
            streams: 4,
            workers: 4,
            rounds: Some(1),
            count: 20,
            idle: 20,
            profile: ProfileArgs { scale: 2.0, seed: 1, canaries: 1 },
            ..Self::default()
        }
    }
}

/// A parser of numbers from `least` to `most`.
pub(crate) fn number_within(least: f64, most: f64) -> impl Fn(&str) -> anyhow::Result<f64> + Clone {
    move |text| {
        let number: f64 = text.parse()?;
        anyhow::ensure!((least..=most).contains(&number), "not within {least} to {most}");
        Ok(number)
    }
}
