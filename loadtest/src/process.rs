//! CPU time and memory of other processes, from `/proc`.

use std::fs;
use std::str::FromStr;

use anyhow::Context as _;

/// A process that is watched, by the name it has in the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl FromStr for Process {
    type Err = anyhow::Error;

    /// `NAME=PID`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, pid) = text.split_once('=').context("not NAME=PID")?;
        let process = Self { name: name.to_owned(), pid: pid.parse().context("not a process id")? };
        process.cpu_seconds()?;
        Ok(process)
    }
}

impl Process {
    /// This process.
    pub(crate) fn myself() -> Self {
        Self { name: "loadtest".into(), pid: std::process::id() }
    }

    /// CPU seconds used so far by all its threads that still run. Counted in
    /// nanoseconds by the scheduler, where `/proc/PID/stat` counts ticks.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid))
            .with_context(|| format!("process {} ({}) is gone", self.name, self.pid))?;
        let mut nanoseconds = 0u64;
        for task in tasks {
            // A thread may end between the two reads.
            let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
            nanoseconds += text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .with_context(|| format!("process {} ({}) is gone", self.name, self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kibibytes * 1024)
    }

    /// How many files it has open.
    pub(crate) fn open_files(&self) -> anyhow::Result<usize> {
        self.entries("fd")
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> anyhow::Result<usize> {
        self.entries("task")
    }

    fn entries(&self, of: &str) -> anyhow::Result<usize> {
        let entries = fs::read_dir(format!("/proc/{}/{of}", self.pid));
        Ok(entries.with_context(|| format!("process {} ({}) is gone", self.name, self.pid))?.count())
    }
}

/// How many files this process may have open.
pub(crate) fn open_file_limit() -> anyhow::Result<usize> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit")?;
    Ok(line.split_whitespace().next().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_watched() {
        let me: Process = format!("me={}", std::process::id()).parse().unwrap();
        assert_eq!(me.name, "me");
        assert!(me.resident().unwrap() > 100_000);
        let before = me.cpu_seconds().unwrap();
        let mut sum = 0u64;
        while me.cpu_seconds().unwrap() - before < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(me.open_files().unwrap() > 2 && me.threads().unwrap() > 1);
        assert!(open_file_limit().unwrap() > 16);
        for bad in ["me", "me=x", "gone=4194305"] {
            assert!(bad.parse::<Process>().is_err(), "{bad}");
        }
    }
}
