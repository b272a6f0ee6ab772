//! One connection to the target.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::command::{Command, MAX_LINE, REPORT_EVERY};
use super::records::Records;
use super::{exchange, shell};
use crate::payload::{BLOCK, Payload, Tally, ZEROS, random_size};

/// Longest wait for a command: profiles open connections long before they use them.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait of a tally for its deposit, and of an ebb for its floods. Clients give up after 30 seconds.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// Reads a command and obeys it.
pub(super) async fn obey(mut socket: TcpStream, records: &Records) -> anyhow::Result<()> {
    let (command, rest) = timeout(COMMAND_LIMIT, read_command(&mut socket)).await??;
    match command {
        Command::Deposit(token) => {
            let tally = tally(&mut socket, &rest, u64::MAX).await?;
            records.deposits.put(token, tally);
            Ok(())
        }
        Command::Discard => discard(socket, rest.len() as u64).await,
        Command::Ebb(token) => {
            timeout(WAIT_LIMIT, records.groups.ebb(token)).await?;
            Ok(socket.write_all(&[0]).await?)
        }
        Command::Echo => echo(socket, &rest).await,
        Command::Flood(token) => records.groups.flood(socket, token).await,
        Command::Lines(lines) => lines.serve(socket).await,
        Command::Release(token) => {
            records.groups.release(token);
            Ok(socket.write_all(&[0]).await?)
        }
        Command::Serve => exchange::serve(socket, rest).await,
        Command::Shell => shell::serve(socket, rest).await,
        Command::Sink(count) => answer_tally(socket, &rest, count).await,
        Command::SinkToEnd => answer_tally(socket, &rest, u64::MAX).await,
        Command::Source { count, seed } => source(socket, count, seed).await,
        Command::Stall(token) => records.groups.stall(socket, token).await,
        Command::Tally(token) => {
            let tally = timeout(WAIT_LIMIT, records.deposits.take(token)).await?;
            socket.write_all(format!("{tally}\n").as_bytes()).await?;
            Ok(())
        }
        Command::Zeros => loop {
            socket.write_all(&ZEROS).await?;
        },
    }
}

/// Speaks first: `COUNT SEED\n`, then `COUNT` bytes of the payload.
pub(super) async fn banner(mut socket: TcpStream) -> anyhow::Result<()> {
    let (count, seed) = (random_size(), rand::random::<u64>());
    socket.write_all(format!("{count} {seed}\n").as_bytes()).await?;
    source(socket, count, seed).await
}

async fn read_command(socket: &mut TcpStream) -> anyhow::Result<(Command, Vec<u8>)> {
    let mut line = Vec::with_capacity(MAX_LINE);
    loop {
        if socket.read_buf(&mut line).await? == 0 {
            anyhow::bail!("the end came before a command");
        }
        if let Some(at) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(at + 1);
            return Ok((std::str::from_utf8(&line[..at])?.parse()?, rest));
        }
        anyhow::ensure!(line.len() < MAX_LINE, "no command in {MAX_LINE} bytes");
    }
}

async fn echo(mut socket: TcpStream, rest: &[u8]) -> anyhow::Result<()> {
    socket.write_all(rest).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..read]).await?;
    }
}

async fn discard(mut socket: TcpStream, mut total: u64) -> anyhow::Result<()> {
    let mut buffer = vec![0; BLOCK];
    let mut reported = 0;
    loop {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        total += read as u64;
        if total - reported >= REPORT_EVERY {
            reported = total;
            socket.write_all(&total.to_be_bytes()).await?;
        }
    }
}

async fn source(mut socket: TcpStream, count: u64, seed: u64) -> anyhow::Result<()> {
    let mut block = vec![0; BLOCK.min(usize::try_from(count)?)];
    Payload::new(seed).write(&mut socket, count, &mut block).await?;
    socket.shutdown().await.context("end")
}

async fn answer_tally(mut socket: TcpStream, rest: &[u8], count: u64) -> anyhow::Result<()> {
    let tally = tally(&mut socket, rest, count).await?;
    socket.write_all(format!("{tally}\n").as_bytes()).await?;
    socket.shutdown().await.context("end")
}

/// Tallies `count` bytes, or fewer if the end comes first.
async fn tally(socket: &mut TcpStream, rest: &[u8], count: u64) -> anyhow::Result<String> {
    let mut tally = Tally::new();
    tally.take(rest);
    let mut left = count.saturating_sub(rest.len() as u64);
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = socket.read(&mut buffer[..want]).await?;
        if read == 0 {
            break;
        }
        tally.take(&buffer[..read]);
        left -= read as u64;
    }
    Ok(tally.text())
}
