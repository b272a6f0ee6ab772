//! Checks the line itself: datagrams there and back, without a tunnel, against the delay and the loss that
//! were asked for.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{say, write_json};
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, timeout};

use crate::line::Counts;
use crate::line_args::{LineArgs, share};
use crate::namespaces::AGENT;

/// The target's port; the namespace is our own, so every port is free.
const PORT: u16 = 7000;

/// Datagrams per second. More overflow a socket while its reader waits for a busy CPU, and count as lost;
/// fewer only make the check longer.
const PER_SECOND: u32 = 1_000;

/// A datagram that has not come back after this is lost.
const LAST: Duration = Duration::from_secs(2);

/// Tolerance of the round trip: timers tick in milliseconds, and each direction waits for one.
const SLACK: Duration = Duration::from_millis(5);

/// Longest packet that the devices may hand over; a longer one is several packets, and one loss is many.
const MTU: usize = 1500;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    line: LineArgs,
    /// Share of packets that are lost.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    loss: f64,
    /// Datagrams that are sent.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    count: u32,
}

#[derive(Debug, Args)]
pub(crate) struct PingArgs {
    target: SocketAddr,
    count: u32,
}

#[derive(Debug, Serialize)]
struct Figures {
    sent: u32,
    back: usize,
    round_trip_p50_ms: f64,
    round_trip_p99_ms: f64,
    line: [Counts; 2],
}

/// True if the line is as asked for.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<bool> {
    let network = args.line.network(args.loss)?;
    let own = std::env::current_exe()?;
    let mut target = network.agent.command(&own);
    target.args(["target", &format!("--listen=0.0.0.0:{PORT}")]).stdin(Stdio::piped());
    let mut target = target.spawn().context("start the target")?;
    let mut pinger = network.server.command(&own);
    pinger.args(["ping", &format!("{AGENT}:{PORT}"), &args.count.to_string()]);
    let output = pinger.stderr(Stdio::inherit()).output().context("run the pinger");
    // Either fails only when the target has ended already.
    let _ = target.kill();
    let _ = target.wait();
    let times: Vec<f64> = serde_json::from_slice(&output?.stdout).context("the pinger's answer")?;
    judge(args, &times, network.line.counts())
}

fn judge(args: &CheckArgs, times: &[f64], line: [Counts; 2]) -> anyhow::Result<bool> {
    anyhow::ensure!(!times.is_empty(), "nothing came back");
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    let figures = Figures {
        sent: args.count,
        back: times.len(),
        round_trip_p50_ms: at(0.5),
        round_trip_p99_ms: at(0.99),
        line,
    };
    let conditions = args.line.conditions(args.loss);
    let lost = 1.0 - times.len() as f64 / f64::from(args.count);
    // Both directions lose. Five standard deviations are allowed.
    let expected = 1.0 - (1.0 - args.loss) * (1.0 - args.loss);
    let spread = 5.0 * (expected * (1.0 - expected) / f64::from(args.count)).sqrt();
    let delay = 2.0 * conditions.delay.as_secs_f64() * 1e3;
    let (p50, longest) = (figures.round_trip_p50_ms, line.map(|counts| counts.longest));
    let checks = [
        (
            format!("round trip p50 {p50:.2} ms, p99 {:.2} ms, of {delay:.2}", figures.round_trip_p99_ms),
            p50 >= delay && p50 <= delay + SLACK.as_secs_f64() * 1e3,
        ),
        (format!("{lost:.4} lost there and back, of {expected:.4}"), (lost - expected).abs() <= spread),
        (format!("longest packets {longest:?} bytes"), longest.into_iter().all(|longest| longest <= MTU)),
    ];
    for (text, holds) in &checks {
        say(&format!("{} {text}", if *holds { "ok  " } else { "FAIL" }));
    }
    if let Some(path) = &args.line.json {
        write_json(path, &figures)?;
    }
    Ok(checks.iter().all(|(_, holds)| *holds))
}

/// In a process of its own, in the server's namespace: sends datagrams of many sizes, and prints the round
/// trips in milliseconds, sorted.
pub(crate) async fn ping(&PingArgs { target, count }: &PingArgs) -> anyhow::Result<bool> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(target).await?;
    wait_for(&socket).await?;
    let mut sent = Vec::new();
    let mut times = Vec::new();
    let mut tick = interval(Duration::from_secs(1) / PER_SECOND);
    let (mut datagram, mut back) = (vec![0; 1472], [0; 2048]);
    while sent.len() < count as usize {
        tokio::select! {
            _ = tick.tick() => {
                let number = u32::try_from(sent.len())?;
                datagram[..4].copy_from_slice(&number.to_be_bytes());
                sent.push(Instant::now());
                let len = 4 + (number as usize * 97) % 1469;
                socket.send(&datagram[..len]).await?;
            }
            received = socket.recv(&mut back) => note(&back[..received?], &sent, &mut times),
        }
    }
    while let Ok(received) = timeout(LAST, socket.recv(&mut back)).await {
        note(&back[..received?], &sent, &mut times);
    }
    times.sort_by(f64::total_cmp);
    say(&serde_json::to_string(&times)?);
    Ok(true)
}

/// Waits until the target answers.
async fn wait_for(socket: &UdpSocket) -> anyhow::Result<()> {
    for _ in 0..100 {
        // Refused while nobody listens.
        let _ = socket.send(&[1; 3]).await;
        let answer = timeout(Duration::from_millis(100), socket.recv(&mut [0; 16])).await;
        if matches!(answer, Ok(Ok(_))) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("the target never answers")
}

fn note(back: &[u8], sent: &[Instant], times: &mut Vec<f64>) {
    let number = back.first_chunk().map(|number| u32::from_be_bytes(*number) as usize);
    // Answers to `wait_for` have three bytes, and no number.
    if let Some(at) = number.and_then(|number| sent.get(number)) {
        times.push(at.elapsed().as_secs_f64() * 1e3);
    }
}
