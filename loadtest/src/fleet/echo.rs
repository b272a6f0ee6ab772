//! The target of simulated agents: it echoes, in the agent's process and without a socket. It knows only the
//! command `echo`.

use std::future::poll_fn;
use std::sync::Arc;

use tunnel::duplex::{Batch, Broken, Duplex as _, End, Flow};
use tunnel::stream::Stream;
use tunnel_agent::embedded::Answer;

use crate::target::command::{Command, MAX_LINE};

pub(super) fn answer() -> Answer {
    // The client sees any error as an early end of the connection.
    Arc::new(|_, stream| Box::pin(async move { drop(echo(stream).await) }))
}

async fn echo(mut stream: Stream) -> Result<(), Broken> {
    let mut line = Some(Vec::new());
    loop {
        let mut batch = Batch::default();
        let flow = poll_fn(|cx| stream.poll_recv(cx, &mut batch)).await?;
        if let Flow::End(_) = flow {
            poll_fn(|cx| stream.poll_finish(cx, End::Fin)).await?;
            stream.settle(false).await;
            return Ok(());
        }
        stream.consumed(batch.len());
        if let Some(seen) = &mut line {
            let Some(length) = command_length(seen, &batch) else { continue };
            if !is_echo(&seen[..length]) {
                return Err(Broken::Protocol("not a command that is known here".to_owned()));
            }
            let rest = seen.split_off(length);
            line = None;
            batch.clear();
            batch.push(rest.into());
        }
        poll_fn(|cx| stream.poll_send(cx, &mut batch)).await?;
    }
}

/// Adds the bytes, and returns the length of the first line once it is whole, or too long for a command.
fn command_length(seen: &mut Vec<u8>, batch: &Batch) -> Option<usize> {
    batch.iter().for_each(|chunk| seen.extend_from_slice(chunk));
    let end = seen.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    end.or((seen.len() >= MAX_LINE).then_some(seen.len()))
}

fn is_echo(line: &[u8]) -> bool {
    line == Command::Echo.line().as_bytes()
}
