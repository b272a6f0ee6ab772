//! Servers: connections of agents, each with its calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::call::Call;
use super::http2::{self, silence};
use crate::drain::Drain;
use crate::packets::Counters;
use crate::transport::error::HandshakeError;

/// Most calls on one connection of an agent; agents make one. More are memory that one can take.
const CALLS: u32 = 1;

/// Flow-control window of a call before its agent is admitted, in bytes. Agents send nothing before
/// the answer; more is memory for strangers.
const STRANGERS_WINDOW: u32 = 4096;

/// Pause before the window is widened again. Shorter costs processor time; longer slows the first
/// bytes of an agent.
const WIDEN_AGAIN: Duration = Duration::from_millis(20);

/// Interval of pings to agents. Shorter costs messages; longer finds dead agents later.
const SERVER_PING: Duration = Duration::from_secs(5);

/// Time for which a connection may be without a call. Longer keeps connections of
/// strangers.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A connection of Konnectivity agents.
#[derive(Debug)]
pub(crate) struct Agents<IO> {
    connection: server::Connection<IO, Bytes>,
    remote: SocketAddr,
    counters: Counters,
}

/// Serves HTTP/2 to an agent. Cancel safe; the caller limits the time.
///
/// # Errors
/// When the peer does not speak HTTP/2.
pub(crate) async fn accept<IO>(
    io: IO,
    remote: SocketAddr,
    counters: Counters,
) -> Result<Agents<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = http2::builder!(server)
        .max_concurrent_streams(CALLS)
        .initial_window_size(STRANGERS_WINDOW)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| HandshakeError::Lost(error.to_string()))?;
    Ok(Agents { connection, remote, counters })
}

impl<IO> Agents<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Takes calls until the connection is over. Returns the reason. An agent that does not
    /// answer pings is gone.
    pub(crate) async fn serve(mut self, drain: &Drain, mut on_call: impl FnMut(Call)) -> String {
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        if let Some(ping) = self.connection.ping_pong() {
            let (gone, lost) = (gone.clone(), gone.clone());
            drain.spawn("pings", async move {
                tokio::select! {
                    () = silence(ping, SERVER_PING) => lost.cancel(),
                    () = gone.cancelled() => {}
                }
            });
        }
        let admitted = Arc::<Notify>::default();
        let (mut is_admitted, mut is_wide) = (false, false);
        loop {
            // Fails until the agent has acknowledged the settings of the beginning.
            is_wide =
                is_wide || is_admitted && self.connection.set_initial_window_size(http2::CALL_WINDOW).is_ok();
            let idle = !self.connection.has_streams();
            let next = tokio::select! {
                biased;
                () = drain.killed() => {
                    // The last packets of the calls still go out.
                    let _ = timeout(Duration::from_millis(500), std::future::poll_fn(|cx| {
                        self.connection.poll_closed(cx)
                    })).await;
                    return "server stopped".to_owned();
                }
                () = gone.cancelled() => return "no answer to pings".to_owned(),
                () = admitted.notified() => {
                    is_admitted = true;
                    continue;
                }
                () = sleep(WIDEN_AGAIN), if is_admitted && !is_wide => continue,
                next = self.connection.accept() => next,
                () = sleep(CALL_LIMIT), if idle => return "no call".to_owned(),
            };
            match next {
                Some(Ok((request, respond))) => {
                    if let Some(call) =
                        Call::new(request, respond, self.remote, self.counters.clone(), &admitted)
                    {
                        on_call(call);
                    }
                }
                Some(Err(error)) => return error.to_string(),
                None => return "closed by peer".to_owned(),
            }
        }
    }
}
