//! What canaries and bystanders noticed of floods, as a table, JSON and scores.

use std::path::Path;

use measuring_kit::{Score, complain, say, write_json};
use serde::Serialize;

use super::attack::Tally;
use super::besieged::Look;
use super::canaries::Noticed;
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
    /// Checks that failed, in words.
    pub(crate) failures: Vec<String>,
}

/// The server at a moment.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seen {
    /// Resident memory, MB.
    pub(crate) memory: f64,
    pub(crate) files: usize,
    pub(crate) tunnels: f64,
    pub(crate) connections: f64,
}

/// A flood.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    name: &'static str,
    what: &'static str,
    #[serde(flatten)]
    tally: Tally,
    canaries: usize,
    harmed: u64,
    harm: String,
    p99_ms: f64,
    worst_ms: f64,
    dials: u64,
    failed_dials: u64,
    dial_failures: String,
    joins: u64,
    failed_joins: u64,
    join_failures: String,
    peak_memory: f64,
    peak_files: usize,
}

impl Entry {
    pub(crate) fn new(
        (name, what): (&'static str, &'static str),
        tally: Tally,
        canaries: &Noticed,
        [dials, joins]: [&Dials; 2],
        peak: Look,
    ) -> Self {
        Self {
            name,
            what,
            tally,
            canaries: canaries.there,
            harmed: canaries.harmed.total(),
            harm: canaries.harmed.to_string(),
            p99_ms: canaries.times.value_at_quantile(0.99) as f64 / 1e6,
            worst_ms: canaries.times.max() as f64 / 1e6,
            dials: dials.done,
            failed_dials: dials.failed.total(),
            dial_failures: dials.failed.to_string(),
            joins: joins.done,
            failed_joins: joins.failed.total(),
            join_failures: joins.failed.to_string(),
            peak_memory: peak.memory as f64 / 1e6,
            peak_files: peak.files,
        }
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
            number(self.p99_ms),
            number(self.worst_ms),
            self.dials.to_string(),
            self.failed_dials.to_string(),
            self.joins.to_string(),
            self.failed_joins.to_string(),
            number(self.peak_memory),
            self.peak_files.to_string(),
        ]
    }
}

const HEADS: [&str; 14] = [
    "flood", "", "done", "cut", "canaries", "harmed", "p99 ms", "worst ms", "dials", "failed", "joins",
    "failed", "peak MB", "files",
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
            failures: Vec::new(),
        }
    }

    /// Adds a flood. It fails for each canary that was harmed, and for a flood of nothing.
    pub(crate) fn add(&mut self, entry: Entry) {
        let Entry { name, harmed, harm, canaries, tally, .. } = &entry;
        if *harmed > 0 {
            self.failures.push(format!("{name}: {harmed} of {canaries} canaries were harmed: {harm}"));
        }
        if tally.done == 0 {
            self.failures.push(format!("{name}: nothing was done"));
        }
        for (what, failures) in [("dials", &entry.dial_failures), ("joins", &entry.join_failures)] {
            if !failures.is_empty() {
                complain(&format!("{name}: {what} that failed: {failures}"));
            }
        }
        self.floods.push(entry);
    }

    pub(crate) fn scores(&self) -> impl Iterator<Item = Score> {
        self.floods.iter().map(|entry| Score {
            what: format!("streams beside {}", entry.what),
            tried: entry.canaries as u64,
            lost: entry.harmed,
        })
    }

    /// Prints the table and the failures, and writes the file. False when a check failed.
    pub(crate) fn deliver(&self, json: Option<&Path>) -> anyhow::Result<bool> {
        let mut table = vec![HEADS.map(str::to_owned).to_vec()];
        table.extend(self.floods.iter().map(Entry::line));
        say(&format!("loadtest {}, {} CPUs, Linux {}", self.version, self.cpus, self.kernel));
        for line in aligned(&table, 0) {
            say(&line);
        }
        for (when, Seen { memory, files, tunnels, connections }) in
            [("before", self.before), ("after", self.after)]
        {
            say(&format!(
                "{when}: {memory:.1} MB, {files} files, {tunnels} tunnels, {connections} connections"
            ));
        }
        if let Some(seconds) = self.files_back {
            say(&format!("files as before within {seconds:.1} s"));
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
    use super::*;
    use crate::figures::histogram;
    use crate::reasons::Reasons;

    fn entry(harmed: Reasons, done: u64) -> Entry {
        let noticed = Noticed { there: 7, harmed, times: histogram().unwrap() };
        let (dials, peak) = (Dials::new().unwrap(), Look { memory: 1, files: 2 });
        Entry::new(("a", "some a"), Tally { done, cut: 0 }, &noticed, [&dials, &dials], peak)
    }

    #[test]
    fn harm_fails_and_a_flood_of_nothing_too() {
        let mut toll = Toll::new(Seen::default());
        toll.add(entry(Reasons::default(), 1));
        assert!(toll.failures.is_empty());
        let mut harmed = Reasons::default();
        harmed.count("no echo in 10s");
        toll.add(entry(harmed, 1));
        assert_eq!(toll.failures, ["a: 1 of 7 canaries were harmed: 1 x no echo in #s"]);
        toll.add(entry(Reasons::default(), 0));
        assert_eq!(toll.failures.len(), 2);
        let scores: Vec<_> = toll.scores().map(|score| (score.what, score.tried, score.lost)).collect();
        assert_eq!(scores[1], ("streams beside some a".to_owned(), 7, 1));
        assert_eq!(toll.floods[0].line().len(), HEADS.len());
    }
}
