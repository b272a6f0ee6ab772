//! The target of the agents: this program again, in the agent's namespace. The first line of a connection is
//! a command.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::canary;
use crate::lines::{Checker, MAX_LINE, last_word, line};

/// Longest wait for a command: longer than any blackout of the checks.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Bytes per read and write of bulk.
const BLOCK: usize = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Takes datagrams here, and never answers.
    #[arg(long, value_name = "ADDRESS")]
    silent: Option<SocketAddr>,
}

/// Serves TCP, and echoes datagrams, until standard input ends.
pub(crate) async fn run(args: &TargetArgs) -> anyhow::Result<bool> {
    let (tcp, udp) = (TcpListener::bind(args.listen).await?, UdpSocket::bind(args.listen).await?);
    let mut parent_gone = parent_gone();
    let _silent = match args.silent {
        Some(at) => Some(UdpSocket::bind(at).await.with_context(|| at.to_string())?),
        None => None,
    };
    let (mut datagram, mut connections) = (vec![0; BLOCK], JoinSet::new());
    loop {
        tokio::select! {
            _ = &mut parent_gone => return Ok(true),
            accepted = tcp.accept() => {
                let (socket, _) = accepted?;
                // The client sees any error as the end of its connection.
                connections.spawn(async move { drop(serve(socket).await) });
            }
            Some(_) = connections.join_next() => {}
            received = udp.recv_from(&mut datagram) => {
                if let Ok((len, from)) = received {
                    let _ = udp.send_to(&datagram[..len], from).await;
                }
            }
        }
    }
}

/// Ends with standard input, to which nobody writes: with the parent.
pub(crate) fn parent_gone() -> oneshot::Receiver<()> {
    let (closed, gone) = oneshot::channel();
    std::thread::spawn(move || {
        // Any result is the end.
        let _ = std::io::stdin().read(&mut [0]);
        drop(closed);
    });
    gone
}

async fn serve(mut socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (read, mut write) = socket.split();
    let mut read = BufReader::new(read);
    let mut command = String::new();
    let mut limited = (&mut read).take(MAX_LINE as u64);
    timeout(COMMAND_LIMIT, limited.read_line(&mut command)).await??;
    match command.split_whitespace().collect::<Vec<_>>()[..] {
        ["echo"] => {
            let mut buffer = vec![0; 4096];
            loop {
                let len = read.read(&mut buffer).await?;
                if len == 0 {
                    return Ok(());
                }
                write.write_all(&buffer[..len]).await?;
            }
        }
        ["zeros"] => loop {
            write.write_all(&[0; BLOCK]).await?;
        },
        ["discard"] => {
            let (mut buffer, mut total) = (vec![0; BLOCK], 0);
            loop {
                let len = read.read(&mut buffer).await?;
                anyhow::ensure!(len > 0, "the end");
                total += len as u64;
                write.write_all(&total.to_be_bytes()).await?;
            }
        }
        ["log", seed, every_ms, count] => {
            let (seed, count): (u64, u64) = (seed.parse()?, count.parse()?);
            let every = Duration::from_millis(every_ms.parse()?);
            let mut checker = Checker::new(!seed);
            let mut buffer = vec![0; 4096];
            let reads = async {
                loop {
                    let len = read.read(&mut buffer).await.context("read")?;
                    if len == 0 {
                        return anyhow::Ok(());
                    }
                    checker.take(&buffer[..len]);
                }
            };
            let writes = async {
                say_lines(&mut write, seed, every, count).await?;
                anyhow::Ok(write)
            };
            let ((), mut write) = tokio::try_join!(reads, writes)?;
            write.write_all(last_word(checker.is_whole(count)).as_bytes()).await?;
            Ok(write.shutdown().await?)
        }
        ["canary", seed, every_ms] => {
            let every = Duration::from_millis(every_ms.parse()?);
            canary::answer(read, write, seed.parse()?, every).await
        }
        _ => anyhow::bail!("unknown command {command:?}"),
    }
}

/// Writes `count` lines, one at each interval.
pub(crate) async fn say_lines(
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    seed: u64,
    every: Duration,
    count: u64,
) -> anyhow::Result<()> {
    let mut next = Instant::now();
    for number in 0..count {
        to.write_all(line(seed, number).as_bytes()).await?;
        next += every;
        sleep_until(next).await;
    }
    Ok(())
}
