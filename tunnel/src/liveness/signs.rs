//! The state of a peer, its judgement, and the time limits of both.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tunnel_proto::message::Control;

use super::pace::IDLE;
use crate::messages::ControlError;
use crate::transport::Link;

/// Interval of an agent's pings on links without acknowledgements. Shorter costs messages;
/// longer leaves fewer heartbeats within [`SILENCE`].
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A peer silent for this long is suspect. Less than three heartbeats would suspect it for a
/// lost one; longer delays new work, which is to find another tunnel within 20 s.
const SILENCE: Duration = Duration::from_secs(15);

/// Time for which streams wait for a silent peer on QUIC. QUIC retransmits after pauses that
/// double, so streams survive a blackout of half of it. Longer keeps streams of dead peers.
const BLACKOUT: Duration = Duration::from_secs(70);

/// Longest promise of an agent that counts: as long as a silent peer is relied upon.
const BELIEVED: Duration = SILENCE;

/// Time limits for a silent peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After this time without a sign of life the peer is suspect.
    pub suspect: Duration,
    /// After this time the tunnel is dead, on links whose streams survive a blackout.
    pub limit: Duration,
    /// Interval of an agent's heartbeats.
    pub heartbeat: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { suspect: SILENCE, limit: BLACKOUT, heartbeat: HEARTBEAT }
    }
}

impl Patience {
    pub(super) fn on(self, link: Link) -> Self {
        match link {
            Link::Quic => Self { heartbeat: self.heartbeat.min(IDLE), ..self },
            // TCP rarely survives a blackout of half a minute.
            Link::H2 | Link::Konnectivity => Self { limit: self.suspect, ..self },
        }
    }
}

/// An event in the life of a tunnel's peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// For [`Patience::suspect`] servers have heard nothing from the agent, and agents had no
    /// proof that the server hears them, that its answers arrive, or that full datagrams do.
    Suspect,
    /// The suspect peer gave a sign of life.
    Back,
    /// The peer asks for no new work.
    Draining {
        /// Why.
        reason: String,
        /// Servers: the number of their streams that the agent has taken, if it takes none after
        /// them.
        taken: Option<u64>,
    },
    /// Servers: the agent shows this renewed token.
    Token(String),
    /// Agents: the server is about to end the tunnel, because the agent's credential is not
    /// accepted any more.
    Renew(String),
    /// The tunnel is over, for this reason.
    Dead(String),
}

/// An end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The end that sends heartbeats.
    Agent,
    /// The end that receives them.
    Server,
}

impl Party {
    pub(super) const fn peer(self) -> &'static str {
        match self {
            Self::Agent => "server",
            Self::Server => "agent",
        }
    }
}

/// The queue of messages for the control stream. Boxed, since a channel reserves room for 32
/// items.
pub(super) type Say = mpsc::Sender<Box<Control>>;

/// The state of a peer.
#[derive(Debug)]
pub(super) struct Signs {
    /// When an agent's last promise ends.
    promised: Mutex<Instant>,
    pub(super) suspect: watch::Sender<bool>,
    pub(super) doubted: Notify,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            promised: Mutex::new(Instant::now() + IDLE),
            suspect: watch::Sender::new(false),
            doubted: Notify::new(),
        }
    }
}

impl Signs {
    pub(super) fn promised_until(&self) -> Instant {
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an agent's promise to speak within `next`.
    pub(super) fn promise(&self, next: Duration) {
        let until = Instant::now() + next.min(BELIEVED);
        *self.promised.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(super) fn is_suspect(&self) -> bool {
        *self.suspect.borrow()
    }

    pub(super) async fn suspected(&self) {
        // Fails only without a sender, which is in `self`.
        let _ = self.suspect.subscribe().wait_for(|suspect| *suspect).await;
    }
}

pub(super) fn silent(time: Duration) -> String {
    ControlError::Silent(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_promise_is_believed_for_longer_than_anybody_is_relied_upon() {
        let signs = Signs::default();
        let now = Instant::now();
        signs.promise(Duration::from_millis(250));
        assert!(signs.promised_until() < now + Duration::from_secs(1));
        signs.promise(Duration::MAX);
        assert!(signs.promised_until() <= Instant::now() + BELIEVED);
    }
}
