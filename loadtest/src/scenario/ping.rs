//! Ping: one byte there and back, then the next one.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tunnel_client::Connection;

use super::bulk::{Direction, Load};
use crate::bench::Bench;
use crate::dialing::within;
use crate::figures::{Meter, Outcome, histogram, record};
use crate::target::command::Command;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    bench.progress("ping");
    let mut connection = bench.command(Command::Echo, &[]).await?;
    ping(&mut connection, bench.plan.warm_up()).await?;
    let meter = Meter::start(&bench.watched)?;
    let times = ping(&mut connection, bench.plan.seconds()).await?;
    let used = meter.stop()?;
    let mut outcome = Outcome::default();
    outcome.add_latency("round trip", &times);
    outcome.add_cpu("", &used, times.len() as f64, 1e6, "CPU-us/round trip");
    Ok(outcome)
}

/// Round trips beside a download, which show how long a byte waits behind bulk.
pub(super) async fn run_beside_bulk(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    bench.progress("ping beside a download");
    let mut load = Load::start(bench, Direction::Download, 1).await?;
    let mut connection = bench.command(Command::Echo, &[]).await?;
    load.during(bench.plan.warm_up()).await?;
    let (before, time) = (load.bytes(), bench.plan.seconds());
    let ((), times) = tokio::try_join!(load.during(time), ping(&mut connection, time))?;
    let bytes = (load.bytes() - before) as f64;
    let mut outcome = Outcome::default();
    outcome.add_latency("round trip", &times);
    outcome.add("download meanwhile", bytes / time.as_secs_f64() / 1e6, "MB/s");
    if bytes == 0.0 {
        outcome.fail("no byte of the download came".to_owned());
    }
    load.finish(bench).await?;
    Ok(outcome)
}

/// Round trips for `time`, at least one.
///
/// # Errors
/// When one takes ten seconds, or another byte comes back.
pub(super) async fn ping(connection: &mut Connection, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let mut times = histogram()?;
    let end = Instant::now() + time;
    let mut byte = 0u8;
    loop {
        let start = Instant::now();
        within("echo", async {
            connection.write_all(&[byte]).await?;
            let back = connection.read_u8().await?;
            anyhow::ensure!(back == byte, "sent {byte}, but {back} came back");
            anyhow::Ok(())
        })
        .await??;
        record(&mut times, start);
        byte = byte.wrapping_add(1);
        if Instant::now() >= end {
            return Ok(times);
        }
    }
}
