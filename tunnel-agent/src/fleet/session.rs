//! A tunnel in use: serves its dials, reports its server's health, and ends in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use tunnel::liveness::{Health, Liveness, Party, Patience, Peer};
use tunnel::streams::Streams;
use tunnel::transport::quic::Datagrams;
use tunnel::transport::{Greeted, Tunnel};
use tunnel_operate::report::Datagram;

use super::credentials::Credentials;
use super::report::Report;
use crate::serve::Serving;

/// Time for a drain notice to reach the server, and for dials that cross it to arrive. Longer
/// than a round trip between node and control plane. Shorter, and dials fail that the server
/// sent before it read the notice; longer, and each drain takes longer.
const NOTICE_TRAVELS: Duration = Duration::from_millis(500);

/// A session that runs.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) credentials: Credentials,
    retired: CancellationToken,
    streams: Arc<Streams>,
    tunnel: Tunnel,
    peer: Peer,
}

impl Handle {
    /// Shows the server a token, unless it has this one.
    pub(super) fn show(&mut self, token: &str) {
        if self.credentials.show(token) {
            self.peer.show_token(token);
        }
    }

    /// Ends the tunnel and its streams at once.
    pub(super) fn close(&self, why: &str) {
        self.tunnel.close(why);
    }

    /// The datagrams of the tunnel, in bytes: the largest that the path is known to carry, and
    /// the largest that are tried. QUIC only.
    pub(super) fn datagram(&self, tried: Datagrams) -> Option<Datagram> {
        Some(Datagram { now: self.tunnel.datagram()?, most: tried.to(self.tunnel.remote().ip()) })
    }

    /// Asks the server for no more work, and closes the tunnel after its last stream.
    pub(super) fn retire(&self) {
        self.retired.cancel();
    }

    /// Number of open streams, those being dialled included.
    pub(super) fn streams(&self) -> usize {
        self.streams.open()
    }
}

/// Starts to serve a tunnel, under a number for its reports.
pub(super) fn start(
    greeted: Greeted,
    credentials: Credentials,
    serial: u64,
    patience: Patience,
    sessions: &TaskTracker,
    serving: Arc<Serving>,
    reports: mpsc::Sender<Report>,
) -> Handle {
    let Greeted { tunnel, welcome, control } = greeted;
    let server = Arc::clone(credentials.server());
    let streams = Arc::<Streams>::default();
    let (liveness, peer) =
        Liveness::new(tunnel.clone(), control, Party::Agent, patience, Arc::clone(&streams));
    let (retired, server_drains) = (CancellationToken::new(), CancellationToken::new());
    let drain = serving.drain.clone();
    let (streams_of, tunnel_of, peer_of) = (Arc::clone(&streams), tunnel.clone(), peer.clone());
    let handle = Handle {
        credentials,
        retired: retired.clone(),
        streams: streams_of,
        tunnel: tunnel_of,
        peer: peer_of,
    };
    let session = Session { tunnel, server, peer, streams, retired, server_drains, serving };
    let run = async move {
        let mut reporter = Reporter { serial, server_id: welcome.server_id, reports, ended: false };
        let why = session.run(liveness, &reporter).await;
        reporter.ended = true;
        reporter.tell(Health::Dead(why)).await;
    };
    drain.spawn("session", sessions.track_future(run));
    handle
}

/// Reports the death of a session also when its task panics or is aborted.
struct Reporter {
    serial: u64,
    server_id: String,
    reports: mpsc::Sender<Report>,
    ended: bool,
}

impl Reporter {
    fn report(&self, health: Health) -> Report {
        Report::Session { serial: self.serial, server_id: self.server_id.clone(), health }
    }

    async fn tell(&self, health: Health) {
        // Fails only when the fleet has ended.
        let _ = self.reports.send(self.report(health)).await;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if !self.ended {
            let dead = Health::Dead("the session was aborted".to_owned());
            let _ = self.reports.try_send(self.report(dead));
        }
    }
}

struct Session {
    tunnel: Tunnel,
    server: Arc<str>,
    peer: Peer,
    streams: Arc<Streams>,
    retired: CancellationToken,
    server_drains: CancellationToken,
    serving: Arc<Serving>,
}

impl Session {
    /// Serves until the tunnel is over. Returns the reason.
    async fn run(self, mut liveness: Liveness, reporter: &Reporter) -> String {
        let Serving { metrics, drain, .. } = &*self.serving;
        let mut accepting = std::pin::pin!(self.accept());
        let mut leaving = std::pin::pin!(self.leave());
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
                Health::Draining { reason, taken } => {
                    debug!(remote = %self.tunnel.remote(), reason, "the server is draining");
                    self.server_drains.cancel();
                    reporter.tell(Health::Draining { reason, taken }).await;
                }
                Health::Suspect | Health::Back | Health::Renew(_) => reporter.tell(health).await,
                // Agents show tokens, and servers none.
                Health::Token(_) => {}
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
                    let connecting =
                        Box::pin(Arc::clone(&self.serving).connect(asked, Arc::clone(&self.server)));
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
    async fn leave(&self) {
        let reason = tokio::select! {
            () = self.serving.drain.started() => Some("the agent is draining"),
            () = self.retired.cancelled() => Some("replaced by another tunnel"),
            // The server knows, and sends no more work.
            () = self.server_drains.cancelled() => None,
        };
        if self.peer.is_suspect() {
            // The server moves dials to the tunnel that has replaced this one, so it has to know
            // that one first.
            tokio::time::sleep(NOTICE_TRAVELS).await;
        }
        if let Some(reason) = reason {
            self.peer.leave(reason);
        }
        tokio::time::sleep(NOTICE_TRAVELS).await;
        self.streams.none().await;
    }
}
