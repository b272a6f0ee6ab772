//! Dialling: commands on new connections, many connections at once, and limits.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_client::Connection;

use crate::target::command::Command;

/// Longest wait for anything quick. Less would fail on a busy machine; more would make a stuck tunnel waste
/// the run.
pub(crate) const STUCK: Duration = Duration::from_secs(10);

/// Dials under way at once: more gain nothing on few cores, fewer make thousands of connections slow to open.
pub(crate) const DIALS: usize = 32;

/// Connections that are asked for an echo at once.
const ASKED: usize = 1000;

/// Longest line of a target, in bytes.
const MAX_LINE: u64 = 1024;

/// Waits for something quick.
///
/// # Errors
/// When it takes longer than [`STUCK`].
pub(crate) async fn within<F: Future>(what: &str, future: F) -> anyhow::Result<F::Output> {
    timeout(STUCK, future).await.with_context(|| format!("no {what} in {STUCK:?}"))
}

/// Sends a command to the target, with `more` right behind.
pub(crate) async fn send(connection: &mut Connection, command: Command, more: &[u8]) -> anyhow::Result<()> {
    let line = [command.line().as_bytes(), more].concat();
    Ok(within("room for a command", connection.write_all(&line)).await??)
}

/// Reads a line of the target, without its end.
pub(crate) async fn read_line(from: &mut BufReader<Connection>) -> anyhow::Result<String> {
    let mut line = String::new();
    from.take(MAX_LINE).read_line(&mut line).await?;
    let line = line.strip_suffix('\n').with_context(|| format!("the end came after {line:?}"))?;
    Ok(line.to_owned())
}

/// Has the target echo a byte, which proves that the connection works.
pub(crate) async fn with_echo(mut connection: Connection) -> anyhow::Result<Connection> {
    send(&mut connection, Command::Echo, b"!").await?;
    within("echo", connection.read_u8()).await??;
    Ok(connection)
}

/// Opens `count` connections.
///
/// # Errors
/// When one of them cannot be opened.
pub(crate) async fn open<D>(count: usize, dial: impl Fn() -> D) -> anyhow::Result<Vec<Connection>>
where
    D: Future<Output = anyhow::Result<Connection>> + Send + 'static,
{
    let (mut dials, mut open) = (JoinSet::new(), Vec::with_capacity(count));
    for _ in 0..count {
        if dials.len() >= DIALS {
            open.extend(dials.join_next().await.transpose()?.transpose()?);
        }
        dials.spawn(dial());
    }
    while let Some(dialled) = dials.join_next().await {
        open.push(dialled??);
    }
    Ok(open)
}

/// Asks all for an echo; the number of those that do not answer.
pub(crate) async fn dead(connections: Vec<Connection>) -> anyhow::Result<usize> {
    let (mut asked, mut dead) = (JoinSet::<bool>::new(), 0);
    for mut connection in connections {
        if asked.len() >= ASKED
            && let Some(alive) = asked.join_next().await
        {
            dead += usize::from(!alive?);
        }
        asked.spawn(async move {
            let echo = async {
                connection.write_all(b"?").await?;
                connection.read_u8().await
            };
            matches!(within("echo", echo).await, Ok(Ok(b'?')))
        });
    }
    while let Some(alive) = asked.join_next().await {
        dead += usize::from(!alive?);
    }
    Ok(dead)
}
