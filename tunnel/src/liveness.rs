//! Decides whether the peer of a tunnel lives, for all links.
//!
//! Sessions receive [`Health`] events. A peer without a sign of life for
//! [`Patience::suspect`] is *suspect*. On links over TCP the tunnel is dead then. On QUIC,
//! only new work turns away from it: its streams wait until [`Patience::limit`], and the
//! peer may come back.
//!
//! | link | sign of life for an agent | dead |
//! | --- | --- | --- |
//! | h2 | an answer to its ping, every 5 s | after 15 s |
//! | quic | an acknowledgement of its heartbeats (`pace`), with streams an answer that fills a datagram, and one of their full packets (`full`) | after 70 s, or when the process is found gone (`vanished`) |
//! | konnectivity | HTTP/2 pings, in the link | as the link says |
//!
//! For a server, a sign of life is a message of the agent. An agent needs the proof that its own
//! words arrive: a server that loses them tries to reach the agent, and is heard. A server says
//! so on the tunnel when it suspects the agent.
//!
//! Only agents send heartbeats, so a server with thousands of them has no timer to run but
//! one deadline for each.
//!
//! A peer that sends more control messages than it may (`allowance`) is dead, too.

mod allowance;
mod conversation;
mod full;
mod pace;
mod signs;
mod vanished;

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::mpsc;
use tunnel_proto::message::{Control, Drain as DrainNotice, Renew, Token};

use crate::messages::{ControlError, Messages};
use crate::streams::Streams;
use crate::transport::{Proof, Tunnel};

use conversation::Conversation;
use signs::{Say, Signs};
use vanished::Search;

pub use signs::{Health, Party, Patience};

/// Messages that wait for the control stream, of which a tunnel has few in its life.
const QUEUE: usize = 8;

/// Reaches the peer of a tunnel whose [`Liveness`] is polled elsewhere.
#[derive(Debug, Clone)]
pub struct Peer {
    tunnel: Tunnel,
    say: Say,
    signs: Arc<Signs>,
}

impl Peer {
    /// Asks the peer for no new work. Does not wait for the message to be sent.
    pub fn drain(&self, reason: &str) {
        self.say_drain(reason, None);
    }

    /// Agents: as [`Self::drain`]. If the server is suspect, the agent also takes no further
    /// stream, and tells the server which ones it has taken: the others' dials go elsewhere.
    pub fn leave(&self, reason: &str) {
        let taken = self.is_suspect().then(|| self.tunnel.stop_taking()).flatten();
        self.say_drain(reason, taken);
    }

    /// Whether the peer is suspect.
    pub fn is_suspect(&self) -> bool {
        self.signs.is_suspect()
    }

    fn say_drain(&self, reason: &str, taken: Option<u64>) {
        self.tunnel.announce_drain();
        // The queue is closed on links without a control stream.
        let _ = self.say.try_send(Box::new(Control::Drain(DrainNotice { reason: reason.to_owned(), taken })));
    }

    /// Agents: shows a renewed token. Does not wait for the message to be sent.
    pub fn show_token(&self, token: &str) {
        let _ = self.say.try_send(Box::new(Control::Token(Token { token: token.to_owned() })));
    }

    /// Servers: asks the agent for a tunnel with another credential in place of this one. Does
    /// not wait for the message to be sent.
    pub fn ask_to_renew(&self, reason: &str) {
        let _ = self.say.try_send(Box::new(Control::Renew(Renew { reason: reason.to_owned() })));
    }

    /// Checks soon whether the peer lives, because another process has taken its id. QUIC
    /// only; on TCP the kernel closes a killed process's connection.
    pub fn doubt(&self) {
        self.signs.doubted.notify_one();
    }
}

/// Judges the peer of one tunnel.
pub struct Liveness {
    tunnel: Tunnel,
    conversation: Option<Box<Conversation>>,
    /// Ready with the reason when the peer's process is found killed.
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
    /// Begins to judge the peer of a tunnel after the greeting. `control` is the control
    /// stream, on links that have one.
    pub fn new(
        tunnel: Tunnel,
        control: Option<Messages>,
        party: Party,
        patience: Patience,
        streams: Arc<Streams>,
    ) -> (Self, Peer) {
        let patience = patience.on(tunnel.link());
        let (say, outgoing) = mpsc::channel(QUEUE);
        let signs = Arc::<Signs>::default();
        let proof = tunnel.proof();
        let gone: Pin<Box<dyn Future<Output = String> + Send>> = match &proof {
            Proof::Datagrams(quic) => Box::pin(
                Search {
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

    /// Waits for the next event. Nothing follows [`Health::Dead`], and [`Health::Draining`] comes
    /// once. Heartbeats are sent only while this is polled. Cancel safe.
    pub async fn next(&mut self) -> Health {
        loop {
            let health = self.event().await;
            // Once, so that a peer that repeats itself makes no work.
            if !matches!(health, Health::Draining { .. }) || !std::mem::replace(&mut self.drained, true) {
                return health;
            }
        }
    }

    async fn event(&mut self) -> Health {
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
            closed = tunnel.closed() => {
                let is_silent = conversation.as_mut().is_some_and(|talk| talk.ends_in_silence());
                // Followed by the end.
                if is_silent { Health::Suspect } else { Health::Dead(closed.to_string()) }
            }
            health = talk => {
                if let Health::Draining { taken: Some(taken), .. } = &health {
                    tunnel.takes_only(*taken);
                }
                health
            }
            () = tunnel.peer_drains(), if !*drained => {
                Health::Draining { reason: "the peer drains".to_owned(), taken: None }
            }
            why = gone => Health::Dead(why),
        }
    }
}

#[cfg(test)]
mod tests;
