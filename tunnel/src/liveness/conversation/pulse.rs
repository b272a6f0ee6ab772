//! The heartbeats of one end, and the proof that the peer hears them.
//!
//! To hear the peer proves nothing about the other direction: on a path that loses all
//! datagrams of one direction, an agent hears its server for as long as the server asks.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tunnel_proto::message::{Alive, Control, Ping};

use crate::liveness::full::Full;
use crate::liveness::pace::Pace;
use crate::liveness::signs::Party;
use crate::streams::Streams;
use crate::transport::{Proof, quic};

/// The signs of life of this end.
pub(in crate::liveness) enum Pulse {
    /// A server answers pings. Whatever an agent says is a sign of its life.
    Answers,
    /// An agent pings, and the answers show that the server lives and hears it.
    Asks { every: Duration, due: Instant, number: u64 },
    /// An agent on QUIC.
    Speaks(Box<Speaking>),
}

/// An agent sends heartbeats, and QUIC's acknowledgements show that the server hears it. An
/// answer would cost a further acknowledgement.
///
/// Acknowledgements are small. While streams are open, the agent also asks now and then for an
/// answer that fills a datagram: where large datagrams vanish, it never arrives. The question
/// itself is short, because heartbeats wait behind it: the agent stays alive for its server, and
/// streams of few bytes go on. In the other direction, what streams send shows whether full packets arrive.
pub(in crate::liveness) struct Speaking {
    pace: Pace,
    tunnel: quic::Tunnel,
    acknowledged: quic::Acknowledged,
    streams: Arc<Streams>,
    /// Packets acknowledged at the last look.
    seen: u64,
    number: u64,
    /// Interval of the pings.
    every: Duration,
    /// When a ping without an answer was sent, or shortly before it, when an earlier one was answered.
    asked: Option<Instant>,
    /// The time of the last answer.
    answered: Instant,
    full: Full,
}

impl Pulse {
    pub(in crate::liveness) fn new(
        party: Party,
        proof: Proof,
        every: Duration,
        streams: Arc<Streams>,
    ) -> Self {
        let now = Instant::now();
        match (party, proof) {
            (Party::Server, _) => Self::Answers,
            (Party::Agent, Proof::Datagrams(tunnel)) => {
                let (pace, acknowledged) = (Pace::new(every, now), tunnel.acknowledged());
                let (seen, number, asked, answered) = (acknowledged.packets(), 0, None, now);
                Self::Speaks(Box::new(Speaking {
                    pace,
                    tunnel,
                    acknowledged,
                    streams,
                    seen,
                    number,
                    every,
                    asked,
                    answered,
                    full: Full::default(),
                }))
            }
            (Party::Agent, Proof::Messages) => Self::Asks { every, due: now, number: 0 },
        }
    }

    /// Waits until a heartbeat may be due. Cancel safe.
    pub(super) async fn due(&mut self) {
        match self {
            Self::Answers => pending().await,
            Self::Asks { due, .. } => sleep_until(*due).await,
            Self::Speaks(speaking) => {
                let Speaking { pace, streams, .. } = &mut **speaking;
                loop {
                    tokio::select! {
                        biased;
                        () = sleep_until(pace.due()) => return,
                        () = streams.began() => pace.begun(Instant::now()),
                    }
                }
            }
        }
    }

    /// Whether this end is a server, to which each message is a sign of life.
    pub(super) const fn only_answers(&self) -> bool {
        match self {
            Self::Answers => true,
            Self::Asks { .. } | Self::Speaks(_) => false,
        }
    }

    /// Whether the link has acknowledged a packet since the last call.
    pub(super) fn has_proof(&mut self) -> bool {
        let Self::Speaks(speaking) = self else { return false };
        speaking.full.look(Instant::now(), speaking.acknowledged.full());
        let before = std::mem::replace(&mut speaking.seen, speaking.acknowledged.packets());
        speaking.seen != before
    }

    /// Since when a ping has waited for its answer, where heartbeats are none, or full packets have vanished.
    pub(super) fn in_vain(&self) -> Option<Instant> {
        match self {
            Self::Answers | Self::Asks { .. } => None,
            Self::Speaks(speaking) => speaking.asked.into_iter().chain(speaking.full.lost_since()).min(),
        }
    }

    /// A ping was answered. Returns whether the answer is a sign of life.
    pub(super) fn answered(&mut self) -> bool {
        match self {
            Self::Answers => false,
            Self::Asks { .. } => true,
            Self::Speaks(speaking) => {
                (speaking.asked, speaking.answered) = (None, Instant::now());
                // The ping was acknowledged before it was answered.
                false
            }
        }
    }

    /// The heartbeats that are due now.
    pub(super) fn beat(&mut self) -> impl Iterator<Item = Control> + use<> {
        let (heartbeat, ping) = match self {
            Self::Answers => (None, None),
            Self::Asks { every, due, number } => {
                *number += 1;
                // Random, so that agents that connect together do not ping together.
                *due = Instant::now() + if *number == 1 { every.mul_f64(rand::random()) } else { *every };
                (None, Some(Ping { number: *number, fill: false }))
            }
            Self::Speaks(speaking) => speaking.beat(),
        };
        heartbeat.map(Control::Alive).into_iter().chain(ping.map(Control::Ping))
    }
}

impl Speaking {
    fn beat(&mut self) -> (Option<Alive>, Option<Ping>) {
        let (now, busy) = (Instant::now(), self.streams.open() > 0);
        let Some(heartbeat) = self.pace.speak(now, self.acknowledged.packets(), busy) else {
            return (None, None);
        };
        if heartbeat.urgent {
            self.tunnel.nudge();
        }
        let next_ms = u32::try_from(heartbeat.next.as_millis()).unwrap_or(u32::MAX);
        let pause_is_over = self.number == 0 || now >= self.answered + self.every;
        let ping = (busy && self.asked.is_none() && pause_is_over).then(|| {
            self.number += 1;
            // The silence may have begun right after the last answer.
            self.asked = Some(self.answered.max(now.checked_sub(self.every).unwrap_or(now)));
            Ping { number: self.number, fill: true }
        });
        (Some(Alive { next_ms }), ping)
    }
}
