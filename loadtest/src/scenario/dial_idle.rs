//! Dials per second beside many connections that do nothing, against those
//! without them, in blocks A B B A so that a drift of the machine hits both
//! alike.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::sleep;

use super::dial::{cycle, dials};
use super::idle;
use crate::bench::Bench;
use crate::figures::{Meter, Outcome, histogram};
use crate::matrix::children::Child;

/// So many connections are closed in a second, at every process on their way, on
/// a slow machine; what is still closing would disturb the block behind it.
const CLOSED: f64 = 2000.0;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let (count, mut outcome) = (bench.plan.idle, Outcome::default());
    idle::check_limit(count)?;
    // Fails here, with its reason, when no dial works at all.
    cycle(bench).await?;
    let (_elsewhere, idle_target) = elsewhere(bench).await?;
    let processes = bench.watched.len();
    let (mut without, mut with) = (Blocks::new(processes)?, Blocks::new(processes)?);
    let mut ratios = Vec::new();
    for round in 1..=bench.plan.rounds_of_dial_idle() {
        bench.progress(&format!("dial-idle, round {round}, none"));
        let first = without.block(bench, &mut outcome).await?;
        bench.progress(&format!("dial-idle, round {round}, opening {count}"));
        let idle = idle::open(bench, &idle_target, count).await?;
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

/// Where the idle connections lead to. Each takes a port of the agent's host that no
/// other connection to the same address can have, and the kernel looks for a free
/// one the longer the more are taken: on this machine they lead to a target of
/// their own, because dials to another address do not feel them.
async fn elsewhere(bench: &Bench) -> anyhow::Result<(Option<Child>, String)> {
    let target: SocketAddr = bench.target().parse()?;
    if !target.ip().is_loopback() {
        return Ok((None, bench.target().to_owned()));
    }
    let (child, addresses) = Child::target().await?;
    Ok((Some(child), addresses.commands.to_string()))
}

/// Blocks of one kind, added up.
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

    /// One block, after a moment for what came before to settle; its rate.
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
