//! Calls that carry several connections.
//!
//! A call is one connection until its client asks for another one on it; then
//! it becomes a stream of packets with a bounded queue for each. No known
//! client does so; those that did would otherwise be told no.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tunnel::duplex::{Abort, Batch, Broken, Duplex, End, Flow};
use tunnel::packets::{Asked, Limits, Member, Mux};

use super::super::Frontend;
use super::call;
use super::client::{Client, Shared};

/// What may wait for the targets of one call. Clients are told the reason when
/// a connection has to be closed for it.
const LIMITS: Limits = Limits { connection: 8 << 20, stream: 64 << 20 };

/// How long a call may be without a connection.
const EMPTY_LIMIT: Duration = Duration::from_secs(300);

/// A client's connection: alone on its call, or one of several.
#[derive(Debug)]
pub(super) struct Party {
    carrier: Carrier,
    frontend: Arc<Frontend>,
    listener: &'static str,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one")]
enum Carrier {
    Alone(Client),
    Among(Member),
    /// Between the two.
    Gone,
}

impl Party {
    pub(super) const fn new(client: Client, frontend: Arc<Frontend>, listener: &'static str) -> Self {
        Self { carrier: Carrier::Alone(client), frontend, listener }
    }

    /// Makes room for the connection that the client asks for, if it does.
    fn share(&mut self) {
        let Carrier::Alone(client) = std::mem::replace(&mut self.carrier, Carrier::Gone) else { return };
        let drain = &self.frontend.drain;
        if let Some((Shared { mux, asked, open }, member)) = client.into_shared(LIMITS, drain) {
            self.carrier = Carrier::Among(member);
            let serving = serve(Arc::clone(&self.frontend), self.listener, mux, asked);
            drain.spawn("shared call", async move {
                serving.await;
                drop(open);
            });
        }
    }

    fn end(&mut self) -> Option<&mut dyn Duplex> {
        match &mut self.carrier {
            Carrier::Alone(client) => Some(client),
            Carrier::Among(member) => Some(member),
            Carrier::Gone => None,
        }
    }
}

/// Serves the further dials of a call, until it is over or long empty.
async fn serve(frontend: Arc<Frontend>, listener: &'static str, mux: Mux, mut asked: mpsc::Receiver<Asked>) {
    loop {
        let next = tokio::select! {
            biased;
            () = frontend.drain.killed() => break mux.close("the tunnel server is stopping"),
            next = asked.recv() => next,
            () = sleep(EMPTY_LIMIT) => {
                if mux.connections() > 0 {
                    continue;
                }
                break mux.close("no connection for a long time");
            }
        };
        let Some(asked) = next else { break };
        let dial = Box::pin(call::serve_asked(Arc::clone(&frontend), listener, asked));
        frontend.drain.spawn_connection("dial on a shared call", async move {
            if let Some(carried) = dial.await {
                carried.run().await;
            }
        });
    }
}

fn lost<T>() -> Poll<Result<T, Broken>> {
    Poll::Ready(Err(Broken::Lost("the call ended".to_owned())))
}

impl Duplex for Party {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        if let Carrier::Alone(client) = &mut self.carrier {
            let received = client.poll_recv(cx, batch);
            if received.is_ready() || !client.wants_another() {
                return received;
            }
            self.share();
        }
        self.end().map_or_else(lost, |end| end.poll_recv(cx, batch))
    }

    fn consumed(&mut self, n: usize) {
        if let Some(end) = self.end() {
            end.consumed(n);
        }
    }

    fn held(&mut self, received: usize) -> usize {
        self.end().map_or(received, |end| end.held(received))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        self.end().map_or_else(lost, |end| end.poll_send(cx, batch))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.end().map_or_else(lost, |end| end.poll_flush(cx))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, how: End) -> Poll<Result<(), Broken>> {
        self.end().map_or_else(lost, |end| end.poll_finish(cx, how))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.end().map_or(Poll::Ready(()), |end| end.poll_gone(cx))
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.end().map_or(Poll::Pending, |end| end.poll_broken(cx))
    }

    fn stop_receiving(&mut self) -> bool {
        self.end().is_none_or(Duplex::stop_receiving)
    }

    fn abort(&mut self, how: Abort) {
        if let Some(end) = self.end() {
            end.abort(how);
        }
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        // A member does so by itself.
        if let Carrier::Alone(client) = &mut self.carrier {
            client.abort(Abort::Now);
        }
    }
}
