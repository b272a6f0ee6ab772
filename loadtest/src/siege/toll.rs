//! The toll of floods on canaries and bystanders, as a table, JSON and scores, and its limits.

use std::path::Path;

use measuring_kit::{Score, complain, say, write_json};
use serde::Serialize;

use super::attack::Tally;
use super::besieged::Look;
use super::canaries::Noticed;
use super::floods::Flood;
use crate::bystander::Dials;
use crate::report::{aligned, cpus, kernel, number};

/// A siege.
#[derive(Debug, Serialize)]
pub(crate) struct Toll {
    version: &'static str,
    kernel: String,
    cpus: usize,
    /// The server before the first flood, with all canaries.
    pub(crate) before: Seen,
    pub(crate) floods: Vec<Entry>,
    /// The server after the last flood, with all canaries.
    pub(crate) after: Seen,
    /// Seconds until the server had no more open files than before; absent if it never had.
    pub(crate) files_back: Option<f64>,
    /// Seconds until the server had hardly more memory than before; absent if it never had.
    pub(crate) memory_back: Option<f64>,
    /// Checks that failed, in words.
    pub(crate) failures: Vec<String>,
}

/// The server at a moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seen {
    /// Resident memory, MB.
    pub(crate) memory: f64,
    /// The part of it that is not of files, such as the program's own, MB.
    pub(crate) written: f64,
    pub(crate) files: usize,
    pub(crate) tunnels: f64,
    pub(crate) connections: f64,
}

/// Limits of time beside a flood, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Limits {
    /// Of the median of the canaries' round trips.
    pub(crate) median_ms: f64,
    /// Of a canary's round trip, and of a bystander's dial and join.
    pub(crate) max_ms: f64,
}

impl Limits {
    pub(crate) fn with(self, patience: f64) -> Self {
        Self { median_ms: self.median_ms * patience, max_ms: self.max_ms * patience }
    }
}

/// A flood.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: &'static str,
    what: &'static str,
    enough: u64,
    limits: Limits,
    #[serde(flatten)]
    tally: Tally,
    canaries: usize,
    harmed: u64,
    harm: String,
    p50_ms: f64,
    p99_ms: f64,
    worst_ms: f64,
    dials: u64,
    failed_dials: u64,
    dial_failures: String,
    worst_dial_ms: f64,
    joins: u64,
    failed_joins: u64,
    join_failures: String,
    worst_join_ms: f64,
    peak_memory: f64,
    peak_files: usize,
}

impl Entry {
    pub(crate) fn new(
        &Flood { name, what, enough, patience, .. }: &Flood,
        limits: Limits,
        tally: Tally,
        canaries: &Noticed,
        [dials, joins]: [&Dials; 2],
        peak: Look,
    ) -> Self {
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        Self {
            name,
            what,
            enough,
            limits: limits.with(patience),
            tally,
            canaries: canaries.there,
            harmed: canaries.harmed.total(),
            harm: canaries.harmed.to_string(),
            p50_ms: ms(canaries.times.value_at_quantile(0.5)),
            p99_ms: ms(canaries.times.value_at_quantile(0.99)),
            worst_ms: ms(canaries.times.max()),
            dials: dials.done,
            failed_dials: dials.failed.total(),
            dial_failures: dials.failed.to_string(),
            worst_dial_ms: ms(dials.times.max()),
            joins: joins.done,
            failed_joins: joins.failed.total(),
            join_failures: joins.failed.to_string(),
            worst_join_ms: ms(joins.times.max()),
            peak_memory: peak.memory as f64 / 1e6,
            peak_files: peak.files,
        }
    }

    /// The limits that were exceeded, in words.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let Self { harmed, harm, canaries, tally, enough, .. } = self;
        if *harmed > 0 {
            failures.push(format!("{harmed} of {canaries} canaries were harmed: {harm}"));
        }
        if tally.done < *enough {
            failures.push(format!("the flood did {} instead of {enough}", tally.done));
        }
        for (what, why) in [("dials", &self.dial_failures), ("joins", &self.join_failures)] {
            if !why.is_empty() {
                failures.push(format!("{what} failed: {why}"));
            }
        }
        failures.extend(self.slow().map(|(what, ms, most)| format!("{what} took {ms:.0} ms, not {most:.0}")));
        failures
    }

    /// Names and times of what was slower than its limit, and the limit.
    fn slow(&self) -> impl Iterator<Item = (&'static str, f64, f64)> {
        let Limits { median_ms, max_ms } = self.limits;
        let times = [
            ("the median of round trips", self.p50_ms, median_ms),
            ("a round trip", self.worst_ms, max_ms),
            ("a dial", self.worst_dial_ms, max_ms),
            ("a join", self.worst_join_ms, max_ms),
        ];
        times.into_iter().filter(|(_, ms, most)| ms > most)
    }

    /// For a terminal.
    pub(crate) fn line(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            String::new(),
            self.tally.done.to_string(),
            self.tally.cut.to_string(),
            self.canaries.to_string(),
            self.harmed.to_string(),
            number(self.p50_ms),
            number(self.p99_ms),
            number(self.worst_ms),
            self.dials.to_string(),
            self.failed_dials.to_string(),
            number(self.worst_dial_ms),
            self.joins.to_string(),
            self.failed_joins.to_string(),
            number(self.worst_join_ms),
            number(self.peak_memory),
            self.peak_files.to_string(),
        ]
    }
}

const HEADS: [&str; 17] = [
    "flood", "", "done", "cut", "canaries", "harmed", "p50 ms", "p99 ms", "worst", "dials", "failed",
    "worst", "joins", "failed", "worst", "peak MB", "files",
];

impl Toll {
    pub(crate) fn new(before: Seen) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            kernel: kernel(),
            cpus: cpus(),
            before,
            floods: Vec::new(),
            after: Seen::default(),
            files_back: None,
            memory_back: None,
            failures: Vec::new(),
        }
    }

    /// Adds a flood, and what of it is too much.
    pub(crate) fn add(&mut self, entry: Entry) {
        let failures = entry.failures().into_iter();
        self.failures.extend(failures.map(|failure| format!("{}: {failure}", entry.name)));
        self.floods.push(entry);
    }

    pub(crate) fn scores(&self) -> impl Iterator<Item = Score> {
        let score = |what: &str, tried: u64, lost: u64| Score { what: what.to_owned(), tried, lost };
        let sum = |of: fn(&Entry) -> u64| self.floods.iter().map(of).sum();
        let missed = |back: Option<f64>| u64::from(back.is_none());
        let all = [
            score("dials beside floods", sum(|entry| entry.dials), sum(|entry| entry.failed_dials)),
            score("joins beside floods", sum(|entry| entry.joins), sum(|entry| entry.failed_joins)),
            score(
                "floods beside which nothing takes longer than its limit",
                self.floods.len() as u64,
                sum(|entry| u64::from(entry.slow().next().is_some())),
            ),
            score("memory back within a minute of all floods", 1, missed(self.memory_back)),
            score("files back within a minute of all floods", 1, missed(self.files_back)),
        ];
        let streams = self.floods.iter().map(move |entry| {
            score(&format!("streams beside {}", entry.what), entry.canaries as u64, entry.harmed)
        });
        streams.chain(all)
    }

    /// Prints the table and the failures, and writes the file. False when a check failed.
    pub(crate) fn deliver(&self, json: Option<&Path>) -> anyhow::Result<bool> {
        let mut table = vec![HEADS.map(str::to_owned).to_vec()];
        table.extend(self.floods.iter().map(Entry::line));
        say(&format!("loadtest {}, {} CPUs, Linux {}", self.version, self.cpus, self.kernel));
        for line in aligned(&table, 0) {
            say(&line);
        }
        for (when, Seen { memory, written, files, tunnels, connections }) in
            [("before", self.before), ("after", self.after)]
        {
            say(&format!(
                "{when}: {memory:.1} MB, of which {written:.1} written, {files} files, {tunnels} tunnels, {connections} connections"
            ));
        }
        for (what, back) in [("files", self.files_back), ("memory", self.memory_back)] {
            if let Some(seconds) = back {
                say(&format!("{what} as before within {seconds:.1} s"));
            }
        }
        for failure in &self.failures {
            complain(&format!("FAILED {failure}"));
        }
        if let Some(path) = json {
            write_json(path, self)?;
        }
        Ok(self.failures.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::figures::histogram;
    use crate::reasons::Reasons;

    const LIMITS: Limits = Limits { median_ms: 100.0, max_ms: 1000.0 };

    /// The events beside a flood.
    #[derive(Default)]
    struct Case {
        harmed: &'static str,
        failed_dial: &'static str,
        round_trips: &'static [u64],
        dial_ms: u64,
        patience: f64,
    }

    fn failures(case: &Case, done: u64) -> Vec<String> {
        let flood = Flood { enough: 2, patience: case.patience.max(1.0), ..Flood::of_nothing() };
        let (mut harmed, mut times) = (Reasons::default(), histogram().unwrap());
        let (mut dials, joins) = (Dials::new().unwrap(), Dials::new().unwrap());
        for ms in case.round_trips {
            times.record(ms * 1_000_000).unwrap();
        }
        if !case.harmed.is_empty() {
            harmed.count(case.harmed);
        }
        dials.count(Ok(Duration::from_millis(case.dial_ms)));
        if !case.failed_dial.is_empty() {
            dials.count(Err(anyhow::anyhow!(case.failed_dial)));
        }
        let noticed = Noticed { there: 7, harmed, times };
        let (tally, peak) = (Tally { done, cut: 0 }, Look { memory: 1, written: 1, files: 2 });
        let mut toll = Toll::new(Seen::default());
        toll.add(Entry::new(&flood, LIMITS, tally, &noticed, [&dials, &joins], peak));
        assert_eq!(toll.floods[0].line().len(), HEADS.len());
        toll.failures
    }

    #[test]
    fn harm_failed_dials_and_slowness_fail_and_a_flood_of_too_little_too() {
        let usual = || Case { round_trips: &[10, 10, 900], dial_ms: 900, ..Case::default() };
        assert_eq!(failures(&usual(), 2), [""; 0]);
        assert_eq!(failures(&usual(), 1), ["a: the flood did 1 instead of 2"]);
        let harmed = Case { harmed: "no echo in 10s", ..usual() };
        assert_eq!(failures(&harmed, 2), ["a: 1 of 7 canaries were harmed: 1 x no echo in #s"]);
        let refused = Case { failed_dial: "refused", ..usual() };
        assert_eq!(failures(&refused, 2), ["a: dials failed: 1 x refused"]);
        let slow = Case { round_trips: &[200, 200, 3000], dial_ms: 2000, ..usual() };
        let words = failures(&slow, 2).join(", ");
        assert!(words.contains("the median of round trips took 200 ms, not 100"), "{words}");
        assert!(words.contains("a round trip took 3") && words.contains("a dial took 2"), "{words}");
        assert_eq!(failures(&Case { patience: 4.0, ..slow }, 2), [""; 0]);
    }

    #[test]
    fn what_does_not_come_back_is_lost() {
        let mut toll = Toll::new(Seen::default());
        toll.files_back = Some(1.0);
        let lost = |what: &str| toll.scores().find(|score| score.what.starts_with(what)).unwrap().lost;
        assert_eq!((lost("memory"), lost("files")), (1, 0));
    }
}
