//! CPU time, memory and files of processes, from `/proc`.

use std::fs;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::Serialize;

/// Linux's `USER_HZ`: the unit of CPU time in `/proc/stat` and `/proc/PID/stat`.
pub(crate) const TICKS_PER_SECOND: f64 = 100.0;

/// A watched process, by its name in the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Rss: all pages in RAM.
    pub(crate) resident: u64,
    /// Pss: shared pages are divided among the processes that share them.
    pub(crate) proportional: u64,
    /// `Private_Dirty`: pages that this process has written and no other shares. The pages of the program's
    /// file are not in it, since they depend on other processes of the program.
    pub(crate) private: u64,
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

    /// CPU seconds so far of all its threads, those that have ended included, from the process's own clock
    /// (clock_getcpuclockid(3)).
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let pid = Pid::from_raw(self.pid.try_into().with_context(|| self.is_gone())?);
        let clock = ClockId::pid_cpu_clock_id(pid).with_context(|| self.is_gone())?;
        let time = clock.now().with_context(|| self.is_gone())?;
        Ok(Duration::from(time).as_secs_f64())
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.pid)
    }

    fn is_gone(&self) -> String {
        format!("process {} ({}) is gone", self.name, self.pid)
    }

    /// CPU seconds of the children that have ended.
    pub(crate) fn cpu_seconds_of_ended(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(self.path("stat")).with_context(|| self.is_gone())?;
        cpu_seconds_of_ended(&stat)
    }

    pub(crate) fn command_line(&self) -> anyhow::Result<String> {
        let words = fs::read(self.path("cmdline"))?;
        Ok(String::from_utf8_lossy(&words).trim_end_matches('\0').replace('\0', " "))
    }

    /// Its memory now. More exact than [`Self::resident`], slower, and allowed only for processes of the same
    /// user.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let path = self.path("smaps_rollup");
        memory_of_smaps(&fs::read_to_string(&path).with_context(|| format!("read {path}"))?)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// Resident memory in bytes without the pages of files, such as the program's own, which the kernel may drop.
    pub(crate) fn anonymous(&self) -> anyhow::Result<u64> {
        self.status("RssAnon:")
    }

    /// A size in bytes in `/proc/PID/status` (proc_pid_status(5)).
    fn status(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(self.path("status")).with_context(|| self.is_gone())?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim_end().parse()?;
        Ok(kibibytes * 1024)
    }

    pub(crate) fn open_files(&self) -> anyhow::Result<usize> {
        self.entries("fd")
    }

    pub(crate) fn threads(&self) -> anyhow::Result<usize> {
        self.entries("task")
    }

    fn entries(&self, of: &str) -> anyhow::Result<usize> {
        Ok(fs::read_dir(self.path(of)).with_context(|| self.is_gone())?.count())
    }
}

/// The name, in parentheses, may hold anything. In ticks, cutime and cstime are the fields 16 and 17
/// (proc_pid_stat(5)).
fn cpu_seconds_of_ended(stat: &str) -> anyhow::Result<f64> {
    let (_, rest) = stat.rsplit_once(") ").context("no name of a program")?;
    let mut times = rest.split(' ').skip(13);
    let mut next = || anyhow::Ok(times.next().context("no CPU time")?.parse::<u64>()?);
    Ok((next()? + next()?) as f64 / TICKS_PER_SECOND)
}

fn memory_of_smaps(rollup: &str) -> anyhow::Result<Memory> {
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes = line.with_context(|| format!("no {name}"))?.trim().trim_end_matches("kB").trim_end();
        anyhow::Ok(kibibytes.parse::<u64>()? * 1024)
    };
    Ok(Memory { resident: bytes("Rss")?, proportional: bytes("Pss")?, private: bytes("Private_Dirty")? })
}

/// The limit of open files of this process.
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
        assert!((100_000..me.resident().unwrap()).contains(&me.anonymous().unwrap()));
        let before = me.cpu_seconds().unwrap();
        let mut sum = 0u64;
        while me.cpu_seconds().unwrap() - before < 0.01 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let memory = me.memory().unwrap();
        assert!(memory.private > 100_000 && memory.private <= memory.proportional);
        assert!(memory.proportional <= memory.resident);
        assert!(me.command_line().unwrap().contains("loadtest"));
        assert!(me.open_files().unwrap() > 2 && me.threads().unwrap() > 1);
        assert!(open_file_limit().unwrap() > 16);
        for bad in ["me", "me=x", "gone=4194305"] {
            assert!(bad.parse::<Process>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_time_of_a_thread_that_has_ended_counts() {
        let me = Process::myself();
        let before = me.cpu_seconds().unwrap();
        let worker =
            std::thread::spawn(move || while Process::myself().cpu_seconds().unwrap() - before < 0.05 {});
        worker.join().unwrap();
        assert!(me.cpu_seconds().unwrap() - before >= 0.05);
    }

    #[test]
    fn the_kernels_texts_are_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 70 30 20 0 1 0 5 1 2 3";
        assert_eq!(cpu_seconds_of_ended(stat).unwrap(), 1.0);
        assert!(cpu_seconds_of_ended("7 (a) S 1").is_err());
        let rollup = "55-7f ---p 00000000 00:00 0 [rollup]\nRss:  1748 kB\nPss:   246 kB\nPss_Dirty: 112 kB\n\
                      Private_Clean: 10 kB\nPrivate_Dirty:   112 kB\n";
        let memory = Memory { resident: 1748 * 1024, proportional: 246 * 1024, private: 112 * 1024 };
        assert_eq!(memory_of_smaps(rollup).unwrap(), memory);
        assert!(memory_of_smaps("Rss: 1 kB").is_err());
    }
}
