//! The load of the machine: CPU time that the hypervisor took, and that of programs outside of the
//! comparison.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

use crate::process::{Process, TICKS_PER_SECOND};

/// CPU time since boot, in ticks, and that of some processes.
pub(super) struct Snapshot {
    ticks: Ticks,
    /// CPU seconds by process; None of one that cannot be read.
    own: Vec<Option<f64>>,
    /// CPU seconds of this process's children that have ended.
    ended: f64,
}

/// The load between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Load {
    /// Steal time, in percent of the machine's CPU time.
    pub(super) steal_percent: f64,
    /// CPU time of all other processes, in percent of the machine's; None where one of the known processes
    /// cannot be read.
    pub(super) foreign_percent: Option<f64>,
    /// CPU seconds of the whole machine, the kernel's own work included.
    pub(super) busy_cpu_seconds: f64,
}

impl Snapshot {
    pub(super) fn take(own: &[Process]) -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let own = own.iter().map(|process| process.cpu_seconds().ok()).collect();
        Ok(Self { ticks: Ticks::parse(&stat)?, own, ended: Process::myself().cpu_seconds_of_ended()? })
    }

    /// The time from `self` to `later`, both of the same processes.
    pub(super) fn until(&self, later: &Self) -> Load {
        let pairs = self.own.iter().zip(&later.own);
        let own: Option<f64> =
            pairs.map(|(before, after)| Some((after.as_ref()? - before.as_ref()?).max(0.0))).sum();
        self.ticks.until(later.ticks, own.map(|own| own + later.ended - self.ended))
    }
}

/// Sums of the first line of `/proc/stat` (proc_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    steal: u64,
    total: u64,
}

impl Ticks {
    fn parse(stat: &str) -> anyhow::Result<Self> {
        let line =
            stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no line for all CPUs")?;
        let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        // The guests' time, which follows, is part of user and nice.
        let [user, nice, system, idle, iowait, irq, softirq, steal, ..] = *fields.as_slice() else {
            anyhow::bail!("/proc/stat has no steal time");
        };
        let busy = user + nice + system + irq + softirq;
        Ok(Self { busy, steal, total: busy + idle + iowait + steal })
    }

    fn until(self, later: Self, own_seconds: Option<f64>) -> Load {
        let seconds = |from: u64, to: u64| to.saturating_sub(from) as f64 / TICKS_PER_SECOND;
        let total = seconds(self.total, later.total).max(1.0 / TICKS_PER_SECOND);
        let busy = seconds(self.busy, later.busy);
        let percent = |part: f64| (part / total * 100.0).clamp(0.0, 100.0);
        Load {
            steal_percent: percent(seconds(self.steal, later.steal)),
            foreign_percent: own_seconds.map(|own| percent(busy - own)),
            busy_cpu_seconds: busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_and_foreign_load_are_parts_of_all_cpu_time() {
        let before = Ticks::parse("cpu  100 10 50 1000 40 1 9 20 5 5\ncpu0 1").unwrap();
        assert_eq!(before, Ticks { busy: 170, steal: 20, total: 1230 });
        // Ten seconds later on two CPUs.
        let after = Ticks { busy: 170 + 1000, steal: 20 + 40, total: 1230 + 2000 };
        let load = before.until(after, Some(9.0));
        assert_eq!(load, Load { steal_percent: 2.0, foreign_percent: Some(5.0), busy_cpu_seconds: 10.0 });
        assert_eq!(before.until(after, None).foreign_percent, None);
        // Ticks are coarse: our part may seem larger than the whole.
        assert_eq!(before.until(after, Some(10.2)).foreign_percent, Some(0.0));
        assert!(Ticks::parse("cpu  1 2 3").is_err());
    }

    #[test]
    fn this_machine_can_be_read() {
        let processes = [Process::myself()];
        let before = Snapshot::take(&processes).unwrap();
        let load = before.until(&Snapshot::take(&processes).unwrap());
        assert!(load.foreign_percent.is_some());
        let gone = [Process { name: "gone".into(), pid: u32::MAX }];
        let before = Snapshot::take(&gone).unwrap();
        assert_eq!(before.until(&Snapshot::take(&gone).unwrap()).foreign_percent, None);
    }
}
