//! One tunnel in use: serves its dials, judges the server's life, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tunnel::drain::Drain;
use tunnel::liveness::{Health, Liveness, Party, Patience, Peer};
use tunnel::streams::Streams;
use tunnel::transport::{Greeted, Tunnel};

use crate::serve::Serving;

/// How long a drain notice and the dials that cross it may be on their way: longer than a
/// round trip between node and control plane takes. Below it, dials that the server sent
/// before it read the notice fail.
const NOTICE_TRAVELS: Duration = Duration::from_millis(500);

/// An event of a session.
#[derive(Debug)]
pub(crate) struct SessionEvent {
    /// The session's number.
    pub(crate) serial: u64,
    /// The server's id.
    pub(crate) server_id: String,
    /// The event. A session that is over reports [`Health::Dead`] last.
    pub(crate) health: Health,
}

/// A tunnel in use.
#[derive(Debug)]
pub(crate) struct Session {
    retired: CancellationToken,
    streams: Arc<Streams>,
}

impl Session {
    /// Begins to serve; events go to `report`.
    pub(crate) fn start<R: From<SessionEvent> + Send + 'static>(
        greeted: Greeted,
        serial: u64,
        patience: Patience,
        sessions: &TaskTracker,
        serving: Arc<Serving>,
        report: mpsc::Sender<R>,
    ) -> Self {
        let Greeted { tunnel, welcome, control } = greeted;
        let streams = Arc::<Streams>::default();
        let (liveness, peer) =
            Liveness::new(tunnel.clone(), control, Party::Agent, patience, Arc::clone(&streams));
        let (retired, server_drains) = (CancellationToken::new(), CancellationToken::new());
        let counted = Arc::clone(&streams);
        let running = Running { tunnel, peer, streams, retired: retired.clone(), server_drains, serving };
        let drain = running.serving.drain.clone();
        let server_id = welcome.server_id;
        let run = async move {
            // Also when the task panics, or ends before its tunnel has.
            let mut reporter = Reporter { serial, server_id, report, ended: false };
            let why = running.run(liveness, &mut reporter).await;
            reporter.ended = true;
            reporter.tell(Health::Dead(why)).await;
        };
        drain.spawn("session", sessions.track_future(run));
        Self { retired, streams: counted }
    }

    /// Open streams, those being dialled included.
    pub(crate) fn streams(&self) -> usize {
        self.streams.open()
    }

    /// Asks the server for no more work; the tunnel closes with its last stream.
    pub(crate) fn retire(&self) {
        self.retired.cancel();
    }
}

struct Reporter<R: From<SessionEvent>> {
    serial: u64,
    server_id: String,
    report: mpsc::Sender<R>,
    ended: bool,
}

impl<R: From<SessionEvent>> Reporter<R> {
    fn event(&self, health: Health) -> R {
        SessionEvent { serial: self.serial, server_id: self.server_id.clone(), health }.into()
    }

    async fn tell(&self, health: Health) {
        // Fails only when the fleet has ended.
        let _ = self.report.send(self.event(health)).await;
    }
}

impl<R: From<SessionEvent>> Drop for Reporter<R> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.report.try_send(self.event(Health::Dead("the session was aborted".to_owned())));
        }
    }
}

struct Running {
    tunnel: Tunnel,
    peer: Peer,
    streams: Arc<Streams>,
    retired: CancellationToken,
    server_drains: CancellationToken,
    serving: Arc<Serving>,
}

impl Running {
    /// Serves until the tunnel is over. Returns the reason.
    async fn run<R: From<SessionEvent>>(self, mut liveness: Liveness, reporter: &mut Reporter<R>) -> String {
        let Serving { metrics, drain, .. } = &*self.serving;
        let mut accepting = std::pin::pin!(self.accept());
        let mut leaving = std::pin::pin!(self.leave(drain));
        let (why, is_lost) = loop {
            let health = tokio::select! {
                biased;
                () = drain.killed() => break ("agent stopped".to_owned(), false),
                health = liveness.next() => health,
                why = &mut accepting => break (why, true),
                () = &mut leaving => break ("drained".to_owned(), false),
            };
            match health {
                Health::Dead(why) => break (why, true),
                Health::Draining(reason) => {
                    debug!(remote = %self.tunnel.remote(), reason, "the server is draining");
                    self.server_drains.cancel();
                    reporter.tell(Health::Draining(reason)).await;
                }
                Health::Suspect | Health::Back => reporter.tell(health).await,
            }
        };
        debug!(remote = %self.tunnel.remote(), link = self.tunnel.link().label(), why, "tunnel closed");
        self.tunnel.close(&why);
        metrics.tunnel_ended(self.tunnel.link(), is_lost);
        why
    }

    async fn accept(&self) -> String {
        loop {
            match self.tunnel.accept().await {
                Ok(asked) => {
                    let open = self.streams.count();
                    // Boxed, so that it costs nothing once the connection is relayed.
                    let connecting = Box::pin(Arc::clone(&self.serving).connect(asked));
                    self.serving.drain.spawn_connection("connection", async move {
                        if let Some(connected) = connecting.await {
                            connected.relay().await;
                        }
                        drop(open);
                    });
                }
                Err(closed) => return closed.to_string(),
            }
        }
    }

    /// Waits until one side wants this tunnel to end and its streams have ended.
    async fn leave(&self, drain: &Drain) {
        let reason = tokio::select! {
            () = drain.started() => Some("the agent is draining"),
            () = self.retired.cancelled() => Some("replaced by another tunnel"),
            // The server knows, and sends no more work.
            () = self.server_drains.cancelled() => None,
        };
        if let Some(reason) = reason {
            self.peer.drain(reason);
        }
        // Dials that were on their way when the notice went still come.
        tokio::time::sleep(NOTICE_TRAVELS).await;
        self.streams.none().await;
    }
}
