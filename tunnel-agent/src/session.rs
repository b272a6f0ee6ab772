//! One tunnel in use: keep the conversation, serve streams, and know when it is
//! time to go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use tunnel::control::{ControlError, Conversation, Event, Messages, Notices, Patience, Role, Say, Voice};
use tunnel::drain::Drain;
use tunnel::transport::Tunnel;
use tunnel_proto::message::{Control, Drain as DrainNotice};

use crate::serve::Serving;

/// Longer than a round trip between node and control plane takes.
const NOTICE_TRAVELS: Duration = Duration::from_millis(500);

/// Notices that wait for the control stream; there is one.
const NOTICES: usize = 4;

/// How often a silent server is looked after while streams wait for it.
const LOOK: Duration = Duration::from_secs(1);

/// A tunnel in use. Clones are the same session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    tunnel: Tunnel,
    retired: CancellationToken,
    server_drains: CancellationToken,
    ended: CancellationToken,
    why: Arc<OnceLock<String>>,
    suspect: Arc<watch::Sender<bool>>,
    streams: Arc<Streams>,
}

/// Streams being served on one tunnel.
#[derive(Debug, Default)]
struct Streams {
    open: AtomicUsize,
    /// Told when there is one where none was.
    began: Notify,
    none_left: Notify,
}

struct OpenStream(Arc<Streams>);

impl OpenStream {
    fn new(streams: &Arc<Streams>) -> Self {
        if streams.open.fetch_add(1, Ordering::AcqRel) == 0 {
            streams.began.notify_one();
        }
        Self(Arc::clone(streams))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_one();
        }
    }
}

/// The control stream, on links that have one.
#[derive(Debug)]
pub(crate) struct ControlStream {
    /// After the greeting.
    pub(crate) messages: Messages,
    /// Whether the server reads what `Alive` promises.
    pub(crate) reads_alive: bool,
}

/// How the server is spoken to there.
struct Talk {
    control: ControlStream,
    outgoing: Notices,
}

impl Session {
    /// Begins to serve. A link without a control stream has no conversation:
    /// then the end of the tunnel is all that is heard of the server.
    pub(crate) fn start(
        tunnel: Tunnel,
        control: Option<ControlStream>,
        patience: Patience,
        sessions: &TaskTracker,
        serving: Arc<Serving>,
    ) -> Self {
        let session = Self {
            tunnel,
            retired: CancellationToken::new(),
            server_drains: CancellationToken::new(),
            ended: CancellationToken::new(),
            why: Arc::default(),
            suspect: Arc::default(),
            streams: Arc::default(),
        };
        let (say, talk) = match control {
            Some(control) => {
                let (say, outgoing) = mpsc::channel(NOTICES);
                (Some(say), Some(Talk { control, outgoing }))
            }
            None => (None, None),
        };
        let drain = serving.drain.clone();
        let run = session.clone().run(talk, say, patience, serving);
        drain.spawn("session", sessions.track_future(run));
        session
    }

    /// Asks the server for no more work; the tunnel closes with its last stream.
    pub(crate) fn retire(&self) {
        self.retired.cancel();
    }

    /// Waits until the server says that it drains. Cancel safe.
    pub(crate) async fn server_drains(&self) {
        self.server_drains.cancelled().await;
    }

    /// Whether nothing was heard of the server for so long that another tunnel
    /// is wanted; now and when that changes.
    pub(crate) fn suspect(&self) -> watch::Receiver<bool> {
        self.suspect.subscribe()
    }

    /// Waits until the tunnel is over, and says why. Cancel safe.
    pub(crate) async fn ended(&self) -> String {
        self.ended.cancelled().await;
        self.why.get().cloned().unwrap_or_default()
    }

    async fn run(self, talk: Option<Talk>, say: Option<Say>, patience: Patience, serving: Arc<Serving>) {
        let Serving { metrics, drain, .. } = &*serving;
        // Also when this task panics.
        let _ended = self.ended.clone().drop_guard();
        let (why, broken) = tokio::select! {
            biased;
            () = drain.killed() => ("agent stopped".to_owned(), false),
            why = self.converse(talk, patience) => (why, true),
            why = self.accept(&serving) => (why, true),
            why = self.forsaken(patience) => (why, true),
            () = self.leave(drain, say) => ("drained".to_owned(), false),
        };
        debug!(remote = %self.tunnel.remote(), link = self.tunnel.link().label(), why, "tunnel closed");
        self.tunnel.close(&why);
        metrics.tunnel_ended(self.tunnel.link(), broken);
        // Nobody else sets it.
        let _ = self.why.set(why);
    }

    /// Ready with the reason when the server is not there any more.
    async fn converse(&self, talk: Option<Talk>, patience: Patience) -> String {
        let Some(Talk { control: ControlStream { messages, reads_alive }, mut outgoing }) = talk else {
            return self.tunnel.closed().await.to_string();
        };
        let hear = |event| match event {
            Event::Said(Control::Drain(notice)) => {
                debug!(remote = %self.tunnel.remote(), reason = notice.reason, "the server is draining");
                self.server_drains.cancel();
            }
            Event::Said(_) | Event::Alive(_) => {}
            Event::Suspect => drop(self.suspect.send_replace(true)),
            Event::Back => drop(self.suspect.send_replace(false)),
        };
        let voice = self.tunnel.traffic().is_some().then_some(Voice {
            tunnel: &self.tunnel,
            streams: &self.streams.open,
            began: &self.streams.began,
            is_understood: reads_alive,
        });
        let mut conversation = Conversation::new(messages, Role::Agent, patience.on(self.tunnel.link()));
        conversation.keep(&mut outgoing, voice, hear).await.to_string()
    }

    /// Ready with the reason when nothing speaks for waiting for a silent server
    /// any longer: no streams are left, or its host says that its process is gone.
    async fn forsaken(&self, patience: Patience) -> String {
        let mut suspect = self.suspect();
        loop {
            // Never fails: the sender is in `self`.
            let _ = suspect.wait_for(|suspect| *suspect).await;
            if self.streams.open.load(Ordering::Acquire) == 0 {
                return ControlError::Silent(patience.suspect).to_string();
            }
            if self.tunnel.is_port_closed().await && *suspect.borrow() {
                return "the server's process is gone".to_owned();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn accept(&self, serving: &Arc<Serving>) -> String {
        loop {
            match self.tunnel.accept().await {
                Ok(offered) => {
                    let open = OpenStream::new(&self.streams);
                    // Boxed, so that it costs nothing once the connection is relayed.
                    let connecting = Box::pin(Arc::clone(serving).connect(offered));
                    serving.drain.spawn_connection("connection", async move {
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

    /// Ready when somebody wants this tunnel to end and its streams have ended.
    async fn leave(&self, drain: &Drain, say: Option<Say>) {
        let reason = tokio::select! {
            () = drain.started() => Some("the agent is draining"),
            () = self.retired.cancelled() => Some("replaced by another tunnel"),
            // The server knows, and sends no more work.
            () = self.server_drains() => None,
        };
        if let Some(reason) = reason {
            self.give_notice(reason, say.as_ref()).await;
        }
        // Dials that were on their way when the notice went still come.
        tokio::time::sleep(NOTICE_TRAVELS).await;
        while self.streams.open.load(Ordering::Acquire) > 0 {
            self.streams.none_left.notified().await;
        }
    }

    /// Asks the server for no more work.
    async fn give_notice(&self, reason: &str, say: Option<&Say>) {
        if let Tunnel::Konnectivity(packets) = &self.tunnel {
            packets.say_drain();
        }
        let Some(say) = say else { return };
        if say.send(Box::new(Control::Drain(DrainNotice { reason: reason.to_owned() }))).await.is_err() {
            warn!("the conversation ended before the drain notice");
        }
    }
}
