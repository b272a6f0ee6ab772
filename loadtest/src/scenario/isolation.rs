//! Isolation: a download and round trips, with and without connections that stall on the same agent, in
//! blocks A B B A, so that a drift of the machine cancels out. Each A and the B next to it give one ratio;
//! the figure is the median of the ratios, because a single block is noisy.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use super::bulk::{Direction, Load};
use super::ping::ping;
use crate::bench::Bench;
use crate::figures::{Outcome, histogram};
use crate::stalled::settled::Settled;
use crate::stalled::{Side, Stalled};
use crate::statistics::median;
use crate::target::command::Command;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let (settled, mut outcome) = (Settled::now(bench), Outcome::default());
    for side in [Side::Clients, Side::Targets] {
        let found = match measure(bench, side, &settled).await {
            Ok(found) => found.report(bench, side, &mut outcome),
            Err(error) => Err(error),
        };
        if let Err(error) = found {
            outcome.fail(format!("{}: {error:#}", side.name()));
        }
    }
    Ok(outcome)
}

/// The blocks of one side that stalls.
struct Found {
    without: Blocks,
    with: Blocks,
    /// Ratios of neighbours.
    download: Vec<f64>,
    /// Ratios of neighbours.
    p99: Vec<f64>,
    /// Longest time until the watched processes had closed the stalled connections.
    gone: Duration,
}

/// The sum of the blocks with, or without, connections that stall.
struct Blocks {
    bytes: f64,
    seconds: f64,
    times: Histogram<u64>,
    /// Largest memory of each watched process at the end of a block, in bytes.
    resident: Vec<u64>,
}

impl Blocks {
    fn new(processes: usize) -> anyhow::Result<Self> {
        Ok(Self { bytes: 0.0, seconds: 0.0, times: histogram()?, resident: vec![0; processes] })
    }

    fn rate(&self) -> f64 {
        self.bytes / self.seconds / 1e6
    }

    fn p99(&self) -> f64 {
        self.times.value_at_quantile(0.99) as f64 / 1e3
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    /// Bytes per second.
    download: f64,
    /// The round trip's, in nanoseconds.
    p99: f64,
}

async fn measure(bench: &Bench, side: Side, settled: &Settled) -> anyhow::Result<Found> {
    let (processes, count) = (bench.watched.len(), bench.plan.stalled());
    let mut found = Found {
        without: Blocks::new(processes)?,
        with: Blocks::new(processes)?,
        download: Vec::new(),
        p99: Vec::new(),
        gone: Duration::ZERO,
    };
    for round in 1..=bench.plan.rounds_of_isolation() {
        let progress =
            |what: &str| bench.progress(&format!("isolation, round {round}, {what} {}", side.name()));
        progress("no");
        let first = block(bench, &mut found.without).await.context("with none")?;
        progress("opening");
        let stalled = Stalled::start(bench, side, count).await?;
        progress("with");
        let with_some = || format!("with {count}");
        let beside_first = block(bench, &mut found.with).await.with_context(with_some)?;
        let beside_last = block(bench, &mut found.with).await.with_context(with_some)?;
        progress("closing");
        found.gone = found.gone.max(stalled.end(settled).await?);
        progress("again no");
        let last = block(bench, &mut found.without).await.context("with none")?;
        found.add(beside_first, first)?;
        found.add(beside_last, last)?;
    }
    Ok(found)
}

impl Found {
    /// Adds the ratios of two neighbours.
    fn add(&mut self, with: Block, without: Block) -> anyhow::Result<()> {
        anyhow::ensure!(without.download > 0.0, "no byte of a download arrives where nothing stalls");
        self.download.push(with.download / without.download);
        self.p99.push(with.p99 / without.p99);
        Ok(())
    }

    fn report(&self, bench: &Bench, side: Side, outcome: &mut Outcome) -> anyhow::Result<()> {
        let (none, name) = (side.name(), format!("{} {}", bench.plan.stalled(), side.name()));
        outcome.add(format!("download, no {none}"), self.without.rate(), "MB/s");
        outcome.add(format!("download, {name}"), self.with.rate(), "MB/s");
        let download = add_ratio(outcome, "download ratio", &name, &self.download)?;
        outcome.add(format!("round trip p99, no {none}"), self.without.p99(), "us");
        outcome.add(format!("round trip p99, {name}"), self.with.p99(), "us");
        let p99 = add_ratio(outcome, "round trip p99 ratio", &name, &self.p99)?;
        for (process, bytes) in bench.watched.iter().zip(&self.with.resident) {
            outcome.add(format!("memory {}, {name}", process.name), *bytes as f64 / 1e6, "MB");
        }
        outcome.add(format!("time until gone, {name}"), self.gone.as_secs_f64(), "s");
        let stuck = self.download.contains(&0.0);
        if stuck || bench.plan.min_download_ratio.is_some_and(|least| download < least) {
            let at_least = self.download.iter().copied().fold(f64::INFINITY, f64::min);
            outcome.fail(format!(
                "{name}: the download keeps {download:.2} of its speed, and {at_least:.2} in one block"
            ));
        }
        if bench.plan.max_p99_ratio.is_some_and(|most| p99 > most) {
            outcome.fail(format!("{name}: the p99 of the round trip is {p99:.2} times as long"));
        }
        Ok(())
    }
}

/// Adds the median of ratios, the lowest and the highest one; returns the median.
fn add_ratio(outcome: &mut Outcome, what: &str, name: &str, ratios: &[f64]) -> anyhow::Result<f64> {
    let middle = median(ratios).context("no ratios")?;
    outcome.add(format!("{what}, {name}"), middle, "x");
    let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratios.iter().copied().fold(0.0, f64::max);
    outcome.add(format!("{what} lowest, {name}"), lowest, "x");
    outcome.add(format!("{what} highest, {name}"), highest, "x");
    Ok(middle)
}

async fn block(bench: &Bench, blocks: &mut Blocks) -> anyhow::Result<Block> {
    let mut load = Load::start(bench, Direction::Download, 1).await?;
    let mut echo = bench.command(Command::Echo, &[]).await?;
    load.during(bench.plan.warm_up()).await?;
    let (before, time) = (load.bytes(), bench.plan.seconds());
    let both = async { tokio::try_join!(load.during(time), ping(&mut echo, time)) };
    let ((), times) = both.await?;
    let (bytes, seconds) = ((load.bytes() - before) as f64, time.as_secs_f64());
    let found = Block { download: bytes / seconds, p99: times.value_at_quantile(0.99) as f64 };
    blocks.bytes += bytes;
    blocks.seconds += seconds;
    blocks.times.add(times)?;
    for (most, process) in blocks.resident.iter_mut().zip(&bench.watched) {
        *most = process.resident()?.max(*most);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::figure;

    #[test]
    fn the_median_of_neighbours_counts() {
        let none = || Blocks::new(0).unwrap();
        let (without, with, gone) = (none(), none(), Duration::ZERO);
        let mut found = Found { without, with, download: Vec::new(), p99: Vec::new(), gone };
        let of = |download, p99| Block { download, p99 };
        for (with, without) in [(90.0, 100.0), (10.0, 100.0), (20.0, 10.0), (110.0, 100.0)] {
            found.add(of(with, 3.0), of(without, 2.0)).unwrap();
        }
        let mut outcome = Outcome::default();
        let middle = add_ratio(&mut outcome, "download ratio", "8 stalled", &found.download).unwrap();
        assert!((middle - 1.0).abs() < 1e-9);
        assert_eq!(figure(&outcome, "download ratio, 8 stalled"), middle);
        assert_eq!(figure(&outcome, "download ratio lowest, 8 stalled"), 0.1);
        assert_eq!(figure(&outcome, "download ratio highest, 8 stalled"), 2.0);
        assert_eq!(found.p99, [1.5; 4]);
        assert!(found.add(of(1.0, 1.0), of(0.0, 1.0)).is_err());
    }
}
