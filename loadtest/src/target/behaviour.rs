//! What a target does on one connection.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Records;
use crate::command::{Command, MAX_LINE, REPORT_EVERY};
use crate::payload::{Payload, Tally, random_size};
use crate::profile;

/// How long a client may take to send its command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How long a tally waits for its deposit.
const TALLY_LIMIT: Duration = Duration::from_secs(20);

/// How long floods may take to ebb.
const EBB_LIMIT: Duration = Duration::from_secs(20);

/// Bytes per read and write of bulk.
const BLOCK: usize = 256 * 1024;

pub(super) static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Reads the command and does it.
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
            timeout(EBB_LIMIT, records.groups.ebb(token)).await?;
            Ok(socket.write_all(&[0]).await?)
        }
        Command::Echo => echo(socket, &rest).await,
        Command::Flood(token) => records.groups.flood(socket, token).await,
        Command::Lines(lines) => profile::tell(socket, lines).await,
        Command::Release(token) => {
            records.groups.release(token);
            Ok(socket.write_all(&[0]).await?)
        }
        Command::Serve => profile::serve(socket, rest).await,
        Command::Shell => profile::shell(socket, rest).await,
        Command::Sink(count) => answer_tally(socket, &rest, count).await,
        Command::SinkToEnd => answer_tally(socket, &rest, u64::MAX).await,
        Command::Source { count, seed } => source(socket, count, seed).await,
        Command::Stall(token) => records.groups.stall(socket, token).await,
        Command::Tally(token) => {
            let tally = timeout(TALLY_LIMIT, records.deposits.take(token)).await?;
            socket.write_all(format!("{tally}\n").as_bytes()).await?;
            Ok(())
        }
        Command::Zeros => loop {
            socket.write_all(&ZEROS).await?;
        },
    }
}

/// Speaks first: `COUNT SEED\n`, and so many bytes of the sequence.
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
    let mut payload = Payload::new(seed);
    let mut block = vec![0; BLOCK.min(usize::try_from(count)?)];
    let mut left = count;
    while left > 0 {
        let now = block.len().min(usize::try_from(left)?);
        payload.fill(&mut block[..now]);
        socket.write_all(&block[..now]).await?;
        left -= now as u64;
    }
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
