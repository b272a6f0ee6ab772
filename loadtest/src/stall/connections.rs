//! The connections themselves, in the process that holds them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunnel_client::Connection;

use super::{READY, Side, StallArgs};
use crate::bench::{Bench, within};
use crate::cli::Plan;
use crate::command::Command;
use crate::output;
use crate::target::{Addresses, end_of_stdin};

/// A connection is stalled once nothing moved on it for so long.
pub(crate) const STILL: Duration = Duration::from_millis(300);

/// Longest time until all are opened and stalled: more than a dial that is never
/// answered takes, so that it is told as such.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Holds connections until the end of standard input.
///
/// # Errors
/// When they cannot be opened or filled, and as soon as one is cut.
pub(crate) async fn run(args: &StallArgs) -> anyhow::Result<()> {
    let mut frontend = args.frontend.resolve()?;
    frontend.options.reset_on_close = true;
    // Nobody here wants to hear its second address.
    let target = Addresses { commands: args.target, banner: args.target };
    let bench = Bench::new(frontend, target, Vec::new(), Plan::default());
    let opening = timeout(LIMIT, Held::open(&bench, args.side, args.count));
    let mut held = opening.await.with_context(|| format!("not all stand still after {LIMIT:?}"))??;
    output::line(READY);
    tokio::select! {
        error = held.cut() => return Err(error),
        () = end_of_stdin(true) => {}
    }
    // A server that is stuck lets nobody ask for it; what is left goes with this
    // process.
    let _ = timeout(RELEASE_LIMIT, held.release(&bench)).await;
    Ok(())
}

/// How long targets may take to let go.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Connections on which nothing moves.
struct Held {
    /// Their number at the target.
    token: u64,
    unread: Vec<Connection>,
    /// Those end only with an error.
    writers: JoinSet<anyhow::Error>,
}

impl Held {
    fn new() -> Self {
        Self { token: rand::random(), unread: Vec::new(), writers: JoinSet::new() }
    }

    /// Returns once nothing moves any more.
    async fn open(bench: &Bench, side: Side, count: u32) -> anyhow::Result<Self> {
        match side {
            Side::Clients => Self::downloads(bench, count).await,
            Side::Targets => Self::uploads(bench, count).await,
        }
    }

    async fn downloads(bench: &Bench, count: u32) -> anyhow::Result<Self> {
        let mut held = Self::new();
        for _ in 0..count {
            let mut connection = bench.command(Command::Flood(held.token), &[]).await?;
            within("first byte of a download", connection.read_u8()).await??;
            held.unread.push(connection);
        }
        // Only the target knows: what it sends goes into buffers of everybody's.
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
        // One may have been held up by the others, and not by its target.
        loop {
            let before = written.load(Ordering::Relaxed);
            sleep(STILL).await;
            if written.load(Ordering::Relaxed) == before {
                return Ok(held);
            }
        }
    }

    /// Has the target reset those that it does not read. Clients cannot end them
    /// so well: one that closes a Unix socket may have gone for good or may want
    /// what it wrote to arrive, and a server has to wait for a target that does
    /// not read.
    async fn release(&mut self, bench: &Bench) -> anyhow::Result<()> {
        if self.writers.is_empty() {
            return Ok(());
        }
        bench.command(Command::Release(self.token), &[]).await?.read_u8().await?;
        while self.writers.join_next().await.is_some() {}
        Ok(())
    }

    /// Waits until one of those that write is cut.
    async fn cut(&mut self) -> anyhow::Error {
        match self.writers.join_next().await {
            Some(Ok(error)) => error.context("a stalled connection was cut"),
            Some(Err(error)) => error.into(),
            None => std::future::pending().await,
        }
    }
}

/// Writes until nothing goes any more.
async fn fill(mut connection: Connection) -> anyhow::Result<Connection> {
    let block = vec![0; 64 * 1024];
    while let Ok(written) = timeout(STILL, connection.write(&block)).await {
        anyhow::ensure!(written? > 0, "nothing can be written");
    }
    Ok(connection)
}

/// Still wants to write, like a client that does not know.
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
        let mut held = Held::open(&scene.bench, Side::Targets, 3).await.unwrap();
        drop(scene);
        let error = timeout(LIMIT, held.cut()).await.unwrap();
        assert!(format!("{error:#}").starts_with("a stalled connection was cut: "), "{error:#}");
    }

    #[tokio::test]
    async fn nothing_moves_until_they_are_released() {
        for protocol in BOTH {
            for side in [Side::Clients, Side::Targets] {
                let scene = Scene::new(protocol, Fault::None).await.unwrap();
                let mut held = Held::open(&scene.bench, side, 3).await.unwrap();
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
