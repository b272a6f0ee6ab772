//! `loadtest stall`: holds connections on which nothing moves, until standard input ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::say;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunnel_client::Connection;

use crate::bench::Bench;
use crate::dialing::within;
use crate::frontend::FrontendArgs;
use crate::plan::Plan;
use crate::stalled::{OPEN_LIMIT, READY, Side, StalledArgs};
use crate::stdin;
use crate::target::Addresses;
use crate::target::command::Command;
use crate::target::groups::STILL;

#[derive(Debug, Args)]
pub(crate) struct StallArgs {
    #[command(flatten)]
    frontend: FrontendArgs,
    /// Where the target waits for commands, as the agent reaches it.
    #[arg(long, value_name = "HOST:PORT")]
    target: SocketAddr,
    #[command(flatten)]
    stalled: StalledArgs,
}

/// Holds connections until the end of standard input.
///
/// # Errors
/// When they cannot be opened or filled, and as soon as one is cut.
pub(crate) async fn run(args: &StallArgs) -> anyhow::Result<bool> {
    let mut frontend = args.frontend.resolve()?;
    frontend.options.reset_on_close = true;
    // The second address is not used here.
    let target = Addresses { commands: args.target, banner: args.target };
    let bench = Bench::new(frontend, target, Vec::new(), Plan::default());
    let opening = timeout(OPEN_LIMIT, Held::open(&bench, &args.stalled));
    let mut held = opening.await.with_context(|| format!("not all stand still after {OPEN_LIMIT:?}"))??;
    say(READY);
    tokio::select! {
        error = held.cut() => return Err(error),
        () = stdin::ended() => {}
    }
    // A stuck server does not pass the request on; the end of this process then ends the connections.
    let _ = timeout(RELEASE_LIMIT, held.release(&bench)).await;
    Ok(true)
}

/// Longest release. The parent waits for five seconds.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Connections on which nothing moves.
struct Held {
    /// The number of their group at the target.
    token: u64,
    unread: Vec<Connection>,
    /// A writer ends only with an error.
    writers: JoinSet<anyhow::Error>,
}

impl Held {
    fn new() -> Self {
        Self { token: rand::random(), unread: Vec::new(), writers: JoinSet::new() }
    }

    /// Returns once nothing moves any more.
    async fn open(bench: &Bench, args: &StalledArgs) -> anyhow::Result<Self> {
        match args.side {
            Side::Clients => Self::downloads(bench, args.count).await,
            Side::Targets => Self::uploads(bench, args.count).await,
        }
    }

    async fn downloads(bench: &Bench, count: u32) -> anyhow::Result<Self> {
        let mut held = Self::new();
        for _ in 0..count {
            let mut connection = bench.command(Command::Flood(held.token), &[]).await?;
            within("first byte of a download", connection.read_u8()).await??;
            held.unread.push(connection);
        }
        // Only the target sees its bytes move: every hop buffers them.
        let mut ebb = bench.command(Command::Ebb(held.token), &[]).await?;
        ebb.read_u8().await.context("the target does not say when nothing goes any more")?;
        Ok(held)
    }

    async fn uploads(bench: &Bench, count: u32) -> anyhow::Result<Self> {
        let (mut held, mut filled) = (Self::new(), JoinSet::new());
        for _ in 0..count {
            let connection = bench.command(Command::Stall(held.token), &[]).await?;
            filled.spawn(fill(connection));
        }
        let written = Arc::new(AtomicU64::new(0));
        while let Some(full) = filled.join_next().await {
            held.writers.spawn(keep_writing(full??, Arc::clone(&written)));
        }
        // A connection may have waited for the others, and not for its target.
        loop {
            let before = written.load(Ordering::Relaxed);
            sleep(STILL).await;
            if written.load(Ordering::Relaxed) == before {
                return Ok(held);
            }
        }
    }

    /// Has the target reset the uploads. A client cannot end them as well: it can only close, and then a
    /// server has to wait until the target has read everything.
    async fn release(&mut self, bench: &Bench) -> anyhow::Result<()> {
        if self.writers.is_empty() {
            return Ok(());
        }
        bench.command(Command::Release(self.token), &[]).await?.read_u8().await?;
        while self.writers.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits until an upload is cut. Cancel safe.
    async fn cut(&mut self) -> anyhow::Error {
        match self.writers.join_next().await {
            Some(Ok(error)) => error.context("a stalled connection was cut"),
            Some(Err(error)) => error.into(),
            None => std::future::pending().await,
        }
    }
}

/// Writes until nothing moves.
async fn fill(mut connection: Connection) -> anyhow::Result<Connection> {
    let block = vec![0; 64 * 1024];
    while let Ok(written) = timeout(STILL, connection.write(&block)).await {
        anyhow::ensure!(written? > 0, "nothing can be written");
    }
    Ok(connection)
}

/// Goes on writing, like a client that does not notice the stall.
async fn keep_writing(mut connection: Connection, bytes: Arc<AtomicU64>) -> anyhow::Error {
    loop {
        match connection.write(&[0; 1024]).await {
            Ok(0) => return anyhow::anyhow!("nothing can be written"),
            Ok(written) => bytes.fetch_add(written as u64, Ordering::Relaxed),
            Err(error) => return error.into(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel_client::Protocol;
    use tunnel_client::fake::Fault;

    use crate::tests::{BOTH, Scene};

    #[tokio::test]
    async fn one_that_is_cut_is_told() {
        let scene = Scene::new(Protocol::Connect, Fault::None).await.unwrap();
        let mut held =
            Held::open(&scene.bench, &StalledArgs { side: Side::Targets, count: 3 }).await.unwrap();
        drop(scene);
        let error = timeout(OPEN_LIMIT, held.cut()).await.unwrap();
        assert!(format!("{error:#}").starts_with("a stalled connection was cut: "), "{error:#}");
    }

    #[tokio::test]
    async fn nothing_moves_until_they_are_released() {
        for protocol in BOTH {
            for side in [Side::Clients, Side::Targets] {
                let scene = Scene::new(protocol, Fault::None).await.unwrap();
                let mut held = Held::open(&scene.bench, &StalledArgs { side, count: 3 }).await.unwrap();
                let (unread, writers) = match side {
                    Side::Clients => (3, 0),
                    Side::Targets => (0, 3),
                };
                assert_eq!((held.unread.len(), held.writers.len()), (unread, writers));
                assert!(timeout(STILL, held.cut()).await.is_err(), "{protocol:?} {side:?}");
                held.release(&scene.bench).await.unwrap();
                assert_eq!((held.unread.len(), held.writers.len()), (unread, 0));
            }
        }
    }
}
