//! One tunnel: greet, keep the conversation, serve streams, and know when it
//! is time to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use tunnel::control::{Conversation, Messages, Role, control_messages, greeting};
use tunnel::drain::Drain;
use tunnel::stream::Stream;
use tunnel::transport::Tunnel;
use tunnel_proto::message::{
    Control, Drain as DrainNotice, Hello, RejectionKind, VERSION, Welcome, encode_control,
};

use crate::metrics::Metrics;
use crate::serve::serve;

/// How long the server may take to answer Hello.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetingError {
    #[error("{0}")]
    Control(#[from] tunnel::control::ControlError),
    #[error("the server did not answer the greeting in time")]
    Timeout,
    #[error("rejected by the server ({kind:?}): {text}")]
    Rejected { kind: RejectionKind, text: String },
    #[error("the server answered the greeting with something else")]
    Unexpected,
}

/// Says Hello and waits for Welcome.
pub(crate) async fn greet(
    control: Stream,
    agent_id: &str,
    identifiers: &str,
) -> Result<(Messages, Welcome), GreetingError> {
    let mut messages = control_messages(control);
    let hello = Hello {
        version: VERSION,
        agent_id: agent_id.to_owned(),
        identifiers: identifiers.to_owned(),
        software: concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..Hello::default()
    };
    let hello = encode_control(Control::Hello(hello)).map_err(tunnel::control::ControlError::from)?;
    let answer = async {
        messages.send(hello).await.map_err(tunnel::control::ControlError::from)?;
        greeting(&mut messages).await
    };
    match timeout(GREETING_LIMIT, answer).await.map_err(|_| GreetingError::Timeout)?? {
        Control::Welcome(welcome) => Ok((messages, welcome)),
        Control::Rejection(rejection) => Err(GreetingError::Rejected {
            kind: RejectionKind::from_code(rejection.code),
            text: rejection.text,
        }),
        Control::Hello(_) | Control::Ping(_) | Control::Pong(_) | Control::Drain(_) => {
            Err(GreetingError::Unexpected)
        }
    }
}

/// A tunnel in use. Clones are the same session.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    tunnel: Tunnel,
    retired: CancellationToken,
    ended: CancellationToken,
    streams: Arc<Streams>,
}

/// Streams being served on one tunnel.
#[derive(Debug, Default)]
struct Streams {
    open: AtomicUsize,
    none_left: Notify,
}

struct OpenStream(Arc<Streams>);

impl OpenStream {
    fn new(streams: &Arc<Streams>) -> Self {
        streams.open.fetch_add(1, Ordering::AcqRel);
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

impl Session {
    /// Begins to serve.
    pub(crate) fn start(
        tunnel: Tunnel,
        messages: Messages,
        sessions: &TaskTracker,
        metrics: &Metrics,
        drain: &Drain,
    ) -> Self {
        let session = Self {
            tunnel,
            retired: CancellationToken::new(),
            ended: CancellationToken::new(),
            streams: Arc::default(),
        };
        let (say, outgoing) = mpsc::channel(4);
        let run = session.clone().run(messages, say, outgoing, metrics.clone(), drain.clone());
        drain.spawn("session", sessions.track_future(run));
        session
    }

    /// Asks the server for no more work; the tunnel closes with its last stream.
    pub(crate) fn retire(&self) {
        self.retired.cancel();
    }

    /// Waits until the tunnel is over. Cancel safe.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn run(
        self,
        messages: Messages,
        say: mpsc::Sender<Control>,
        mut outgoing: mpsc::Receiver<Control>,
        metrics: Metrics,
        drain: Drain,
    ) {
        let mut conversation = Conversation::new(messages, Role::Agent);
        let server_drains = CancellationToken::new();
        let hear = |control| {
            if let Control::Drain(notice) = control {
                debug!(remote = %self.tunnel.remote(), reason = notice.reason, "the server is draining");
                server_drains.cancel();
            }
        };
        let why = tokio::select! {
            biased;
            () = drain.killed() => "agent stopped".to_owned(),
            why = conversation.keep(&mut outgoing, hear) => why.to_string(),
            why = self.accept(&metrics, &drain) => why,
            () = self.leave(&drain, &say, &server_drains) => "drained".to_owned(),
        };
        debug!(remote = %self.tunnel.remote(), link = self.tunnel.link().label(), why, "tunnel closed");
        self.tunnel.close(&why);
        metrics.tunnels_closed.with_label_values(&[self.tunnel.link().label()]).inc();
        self.ended.cancel();
    }

    async fn accept(&self, metrics: &Metrics, drain: &Drain) -> String {
        loop {
            match self.tunnel.accept().await {
                Ok(offered) => {
                    let open = OpenStream::new(&self.streams);
                    let serving = serve(offered, metrics.clone(), drain.clone());
                    drain.spawn_connection("connection", async move {
                        serving.await;
                        drop(open);
                    });
                }
                Err(closed) => return closed.to_string(),
            }
        }
    }

    /// Ready when somebody wants this tunnel to end and its streams have ended.
    async fn leave(&self, drain: &Drain, say: &mpsc::Sender<Control>, server_drains: &CancellationToken) {
        let reason = tokio::select! {
            () = drain.started() => Some("the agent is draining"),
            () = self.retired.cancelled() => Some("replaced by another tunnel"),
            // The server knows, and sends no more work.
            () = server_drains.cancelled() => None,
        };
        if let Some(reason) = reason
            && say.send(Control::Drain(DrainNotice { reason: reason.to_owned() })).await.is_err()
        {
            warn!("the conversation ended before the drain notice");
        }
        // Dials that were on their way when the notice went still come.
        tokio::time::sleep(NOTICE_TRAVELS).await;
        while self.streams.open.load(Ordering::Acquire) > 0 {
            self.streams.none_left.notified().await;
        }
    }
}

/// Longer than a round trip between node and control plane takes.
const NOTICE_TRAVELS: Duration = Duration::from_millis(500);
