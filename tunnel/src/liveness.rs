//! Whether the peer of a tunnel lives: the one place that decides it.
//!
//! Links feed it, sessions receive [`Health`] events. A peer without a sign of life for
//! [`Patience::suspect`] is *suspect*. On links over TCP the tunnel is dead then. On QUIC,
//! only new work turns away from it: its streams wait until [`Patience::limit`], and the
//! peer may come back.
//!
//! | link | sign of life | dead |
//! | --- | --- | --- |
//! | h2 | an answer to the agent's ping, every 5 s | after 15 s |
//! | quic | any datagram; agents send heartbeats that QUIC acknowledges ([`pace`]) | after 70 s, or when the process is found gone ([`vanished`]) |
//! | konnectivity | HTTP/2 pings, in the link | as the link says |
//!
//! Only agents send heartbeats, so a server with thousands of them has no timer to run but
//! one deadline for each.

mod conversation;
mod pace;
mod vanished;

use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tunnel_proto::message::{Control, Drain as DrainNotice};

use crate::messages::{ControlError, Messages};
use crate::streams::Streams;
use crate::transport::{Link, Proof, Tunnel};

use conversation::Conversation;
use vanished::Watch;

/// How often an agent asks whether the server lives, on links without acknowledgements.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A peer not heard of for this long is suspect: three heartbeats, so that a lost one does
/// no harm. New work finds another tunnel within 20 s, so it cannot be much longer.
const SILENCE: Duration = Duration::from_secs(15);

/// How long streams wait for a silent peer on QUIC. QUIC retransmits after pauses that
/// double, each at most as long as the blackout so far, so a blackout of half of this time
/// is survived.
const BLACKOUT: Duration = Duration::from_secs(70);

/// Longest promise of an agent that is believed: no longer than anybody is relied upon.
const BELIEVED: Duration = SILENCE;

/// Messages that wait for the control stream; there are a few in a tunnel's life.
const QUEUE: usize = 8;

/// When a silent peer is no longer relied upon, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After this time without a sign of life the peer is suspect.
    pub suspect: Duration,
    /// After this time the tunnel is dead, on links whose streams survive a blackout.
    pub limit: Duration,
    /// How often an agent sends a heartbeat.
    pub heartbeat: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { suspect: SILENCE, limit: BLACKOUT, heartbeat: HEARTBEAT }
    }
}

impl Patience {
    fn on(self, link: Link) -> Self {
        match link {
            Link::Quic => Self { heartbeat: self.heartbeat.min(pace::IDLE), ..self },
            // A TCP connection rarely survives a blackout of half a minute.
            Link::H2 | Link::Konnectivity => Self { limit: self.suspect, ..self },
        }
    }
}

/// An event in the life of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing was received for [`Patience::suspect`].
    Suspect,
    /// The suspect peer was heard of again.
    Back,
    /// The peer asks for no new work, for this reason.
    Draining(String),
    /// The tunnel is over or of no use any more, for this reason.
    Dead(String),
}

/// Which end of a tunnel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Sends heartbeats.
    Agent,
    /// Takes them.
    Server,
}

impl Party {
    const fn peer(self) -> &'static str {
        match self {
            Self::Agent => "server",
            Self::Server => "agent",
        }
    }
}

/// Where messages for the control stream wait. Boxed, because a channel reserves room for
/// 32 of its items.
type Say = mpsc::Sender<Box<Control>>;

/// Facts about the peer that the parts of this module share.
#[derive(Debug)]
struct Signs {
    /// When an agent's last promise ends.
    promised: Mutex<Instant>,
    suspect: watch::Sender<bool>,
    doubted: Notify,
}

impl Signs {
    fn promised_until(&self) -> Instant {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent speaks again after `next` at the latest; 0 promises nothing new.
    fn promise(&self, next: Duration) {
        let until = Instant::now() + next.min(BELIEVED);
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn is_suspect(&self) -> bool {
        *self.suspect.borrow()
    }

    async fn suspected(&self) {
        // Never fails: the sender is in `self`.
        let _ = self.suspect.subscribe().wait_for(|suspect| *suspect).await;
    }
}

/// Reaches the peer of a tunnel whose [`Liveness`] is polled elsewhere.
#[derive(Debug, Clone)]
pub struct Peer {
    tunnel: Tunnel,
    say: Say,
    signs: Arc<Signs>,
}

impl Peer {
    /// Asks the peer for no new work. Does not wait: a peer that reads nothing will be
    /// found out by its silence.
    pub fn drain(&self, reason: &str) {
        self.tunnel.announce_drain();
        // The queue is closed on links without a control stream.
        let _ = self.say.try_send(Box::new(Control::Drain(DrainNotice { reason: reason.to_owned() })));
    }

    /// Asks soon whether the peer lives, because another process has taken its id. Only
    /// on links where nobody says goodbye for a killed process.
    pub fn doubt(&self) {
        self.signs.doubted.notify_one();
    }
}

/// Judges the peer of one tunnel.
pub struct Liveness {
    tunnel: Tunnel,
    conversation: Option<Box<Conversation>>,
    /// Ready with the reason when a peer's process has vanished.
    gone: Pin<Box<dyn Future<Output = String> + Send>>,
    drained: bool,
    /// Keeps the queue of the control stream open.
    _say: Say,
}

impl std::fmt::Debug for Liveness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Liveness").field("tunnel", &self.tunnel).finish_non_exhaustive()
    }
}

impl Liveness {
    /// Begins to judge the peer of a tunnel whose greeting is over. `control` is what the
    /// greeting left of the control stream, on links that have one.
    pub fn new(
        tunnel: Tunnel,
        control: Option<Messages>,
        party: Party,
        patience: Patience,
        streams: Arc<Streams>,
    ) -> (Self, Peer) {
        let patience = patience.on(tunnel.link());
        let (say, outgoing) = mpsc::channel(QUEUE);
        let signs = Arc::new(Signs {
            promised: Mutex::new(Instant::now() + pace::IDLE),
            suspect: watch::Sender::new(false),
            doubted: Notify::new(),
        });
        let proof = tunnel.proof();
        let gone: Pin<Box<dyn Future<Output = String> + Send>> = match &proof {
            Proof::Datagrams(quic) => Box::pin(
                Watch {
                    tunnel: quic.clone(),
                    party,
                    patience,
                    signs: Arc::clone(&signs),
                    streams: Arc::clone(&streams),
                    say: say.clone(),
                }
                .gone(),
            ),
            Proof::Messages => Box::pin(pending()),
        };
        let conversation = control.map(|messages| {
            Box::new(Conversation::new(
                messages,
                outgoing,
                conversation::Pulse::new(party, proof, patience.heartbeat, streams),
                patience,
                Arc::clone(&signs),
            ))
        });
        let peer = Peer { tunnel: tunnel.clone(), say: say.clone(), signs };
        (Self { tunnel, conversation, gone, drained: false, _say: say }, peer)
    }

    /// Servers: waits for the agent's first heartbeat. An agent that keeps the tunnel sends
    /// it at once; one that has a tunnel to this server already closes this one instead.
    /// Links without a control stream do not wait. Cancel safe.
    ///
    /// # Errors
    /// When the agent leaves, or is silent for [`Patience::suspect`].
    pub async fn begun(&mut self) -> Result<(), ControlError> {
        match &mut self.conversation {
            Some(conversation) => conversation.begun().await,
            None => Ok(()),
        }
    }

    /// Waits for the next event. Nothing follows [`Health::Dead`]. Heartbeats are sent only
    /// while this is polled. Cancel safe.
    pub async fn next(&mut self) -> Health {
        let Self { tunnel, conversation, gone, drained, _say } = self;
        let talk = async {
            match conversation {
                Some(conversation) => conversation.next().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            // First: the end of the tunnel says more than that of the control stream.
            closed = tunnel.closed() => Health::Dead(closed.to_string()),
            health = talk => health,
            () = tunnel.peer_drains(), if !*drained => {
                *drained = true;
                Health::Draining("the peer drains".to_owned())
            }
            why = gone => Health::Dead(why),
        }
    }
}

fn silent(time: Duration) -> String {
    ControlError::Silent(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_promise_is_believed_for_longer_than_anybody_is_relied_upon() {
        let signs = Signs {
            promised: Mutex::new(Instant::now()),
            suspect: watch::Sender::new(false),
            doubted: Notify::new(),
        };
        let now = Instant::now();
        signs.promise(Duration::from_millis(250));
        assert!(signs.promised_until() < now + Duration::from_secs(1));
        signs.promise(Duration::MAX);
        assert!(signs.promised_until() <= Instant::now() + BELIEVED);
    }
}
