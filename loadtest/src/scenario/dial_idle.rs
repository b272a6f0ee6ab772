//! Dials per second beside many idle connections, divided by those without them, in blocks A B B A, so that a
//! drift of the machine cancels out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::dial::{cycle, dials};
use super::idle;
use crate::bench::Bench;
use crate::figures::{Meter, Outcome, histogram};
use crate::target::process::TargetProcess;

/// Connections per second that all processes on the way close on a slow machine. With a larger value,
/// connections that still close disturb the next block; a smaller one only takes longer.
const CLOSED: f64 = 2000.0;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let (count, mut outcome) = (bench.plan.idle, Outcome::default());
    idle::check_limit(count)?;
    // Fails here, with the reason, when no dial works at all.
    cycle(bench).await?;
    let elsewhere = elsewhere(bench).await?;
    let idle_target =
        elsewhere.as_ref().map_or(bench.target().to_owned(), |target| target.addresses.commands.to_string());
    let processes = bench.watched.len();
    let (mut without, mut with) = (Blocks::new(processes)?, Blocks::new(processes)?);
    let mut ratios = Vec::new();
    for round in 1..=bench.plan.rounds_of_dial_idle() {
        bench.progress(&format!("dial-idle, round {round}, none"));
        let first = without.block(bench, &mut outcome).await?;
        bench.progress(&format!("dial-idle, round {round}, opening {count}"));
        let idle = bench.open_echoing(&idle_target, count).await.context(idle::OPENING)?;
        bench.progress(&format!("dial-idle, round {round}, {count}"));
        let beside = [with.block(bench, &mut outcome).await?, with.block(bench, &mut outcome).await?];
        drop(idle);
        sleep(Duration::from_secs(1) + Duration::from_secs(1).mul_f64(f64::from(count) / CLOSED)).await;
        bench.progress(&format!("dial-idle, round {round}, none again"));
        let last = without.block(bench, &mut outcome).await?;
        ratios.push((beside[0] + beside[1]) / (first + last));
    }
    ratios.sort_by(f64::total_cmp);
    let ratio = ratios[ratios.len() / 2];
    without.report(bench, "no idle connections", &mut outcome);
    with.report(bench, &format!("{count} idle connections"), &mut outcome);
    outcome.add(format!("rate ratio, {count} idle connections"), ratio, "x");
    if bench.plan.min_dial_ratio.is_some_and(|least| ratio < least) {
        outcome.fail(format!("beside {count} idle connections dials keep {ratio:.2} of their rate"));
    }
    Ok(outcome)
}

/// A target of their own for the idle connections, on this machine. Each takes a port of the agent's host
/// towards the same address, and the kernel's search for a free port takes the longer the more are taken;
/// dials to another address do not feel that.
async fn elsewhere(bench: &Bench) -> anyhow::Result<Option<TargetProcess>> {
    let target: SocketAddr = bench.target().parse()?;
    Ok(if target.ip().is_loopback() { Some(TargetProcess::start().await?) } else { None })
}

/// The sum of the blocks with, or without, idle connections.
struct Blocks {
    dials: f64,
    seconds: f64,
    /// CPU seconds of each watched process.
    cpu: Vec<f64>,
    times: Histogram<u64>,
}

impl Blocks {
    fn new(processes: usize) -> anyhow::Result<Self> {
        Ok(Self { dials: 0.0, seconds: 0.0, cpu: vec![0.0; processes], times: histogram()? })
    }

    /// Runs one block, after a pause for the one before to settle, and returns its rate.
    async fn block(&mut self, bench: &Arc<Bench>, outcome: &mut Outcome) -> anyhow::Result<f64> {
        sleep(bench.plan.warm_up()).await;
        let meter = Meter::start(&bench.watched)?;
        let worked = dials(bench, bench.plan.seconds()).await?;
        let used = meter.stop()?;
        self.dials += worked.times.len() as f64;
        self.seconds += used.seconds;
        self.times.add(&worked.times)?;
        for (sum, (_, seconds)) in self.cpu.iter_mut().zip(&used.cpu) {
            *sum += seconds;
        }
        if worked.failed > 0 {
            let such_as = worked.failures.join("; ");
            outcome.fail(format!("{} dials failed, such as: {such_as}", worked.failed));
        }
        Ok(worked.times.len() as f64 / used.seconds)
    }

    fn report(&self, bench: &Bench, name: &str, outcome: &mut Outcome) {
        outcome.add(format!("rate, {name}"), self.dials / self.seconds, "dials/s");
        outcome.add_latency(&format!("dial and echo, {name}"), &self.times);
        for (process, seconds) in bench.watched.iter().zip(&self.cpu) {
            let each = seconds * 1e6 / self.dials.max(1.0);
            outcome.add(format!("cpu {}, {name}", process.name), each, "CPU-us/dial");
        }
    }
}
