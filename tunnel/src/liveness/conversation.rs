//! The control stream after the greeting: heartbeats, their answers and drain notices.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::coop;
use tokio::time::{Instant, sleep_until, timeout};
use tunnel_proto::message::{Alive, Control, Ping, Pong, decode_control, encode_control};

use super::allowance::Allowance;
use super::pace::Pace;
use super::signs::{Health, Party, Patience, Signs};
use crate::duplex::{Batch, Broken};
use crate::messages::{ControlError, Messages, Progress};
use crate::streams::Streams;
use crate::transport::{Proof, quic};

/// The signs of life of this end.
pub(super) enum Pulse {
    /// A server answers pings.
    Answers,
    /// An agent pings, and the answers show that the server lives.
    Asks { every: Duration, due: Instant, number: u64 },
    /// An agent sends heartbeats, and QUIC's acknowledgements show that the server lives. An
    /// answer would cost a further acknowledgement.
    Speaks { pace: Pace, tunnel: quic::Tunnel, streams: Arc<Streams>, received: u64 },
}

impl Pulse {
    pub(super) fn new(party: Party, proof: Proof, every: Duration, streams: Arc<Streams>) -> Self {
        let now = Instant::now();
        match (party, proof) {
            (Party::Server, _) => Self::Answers,
            (Party::Agent, Proof::Datagrams(tunnel)) => {
                Self::Speaks { pace: Pace::new(every, now), tunnel, streams, received: 0 }
            }
            (Party::Agent, Proof::Messages) => Self::Asks { every, due: now, number: 0 },
        }
    }

    /// Waits until a heartbeat may be due. Cancel safe.
    async fn due(&mut self) {
        match self {
            Self::Answers => pending().await,
            Self::Asks { due, .. } => sleep_until(*due).await,
            Self::Speaks { pace, streams, .. } => loop {
                tokio::select! {
                    biased;
                    () = sleep_until(pace.due()) => return,
                    () = streams.began() => pace.begun(Instant::now()),
                }
            },
        }
    }

    /// Whether the link received a datagram since the last call.
    fn has_heard(&mut self) -> bool {
        let Self::Speaks { tunnel, received, .. } = self else { return false };
        let before = std::mem::replace(received, tunnel.received());
        *received != before
    }

    /// The heartbeat that is due now, if one is.
    fn beat(&mut self) -> Option<Control> {
        match self {
            Self::Answers => None,
            Self::Asks { every, due, number } => {
                *number += 1;
                // Random, so that agents that connect together do not ping together.
                *due = Instant::now() + if *number == 1 { every.mul_f64(rand::random()) } else { *every };
                Some(Control::Ping(Ping { number: *number }))
            }
            Self::Speaks { pace, tunnel, streams, .. } => {
                let heartbeat = pace.speak(Instant::now(), tunnel.received(), streams.open() > 0)?;
                if heartbeat.urgent {
                    tunnel.nudge();
                }
                let next_ms = u32::try_from(heartbeat.next.as_millis()).unwrap_or(u32::MAX);
                Some(Control::Alive(Alive { next_ms }))
            }
        }
    }
}

/// The control stream of one tunnel.
pub(super) struct Conversation {
    messages: Messages,
    outgoing: mpsc::Receiver<Box<Control>>,
    pulse: Pulse,
    patience: Patience,
    signs: Arc<Signs>,
    allowance: Allowance,
    /// When the peer last gave a sign of life.
    heard: Instant,
    suspect: bool,
    /// The peer's last ping without an answer.
    owed: Option<u64>,
    /// The message being sent.
    unsent: Batch,
    /// When sending began.
    sending: Instant,
}

impl Conversation {
    pub(super) fn new(
        messages: Messages,
        outgoing: mpsc::Receiver<Box<Control>>,
        pulse: Pulse,
        patience: Patience,
        signs: Arc<Signs>,
    ) -> Self {
        let now = Instant::now();
        Self {
            messages,
            outgoing,
            pulse,
            patience,
            signs,
            allowance: Allowance::new(now),
            heard: now,
            suspect: false,
            owed: None,
            unsent: Batch::default(),
            sending: now,
        }
    }

    /// As [`Liveness::begun`](super::Liveness::begun).
    pub(super) async fn begun(&mut self) -> Result<(), ControlError> {
        let silence = self.patience.suspect;
        let first =
            timeout(silence, self.messages.recv()).await.map_err(|_| ControlError::Silent(silence))?;
        self.heard(first?).map(drop)
    }

    /// Sends and receives until an event. Cancel safe.
    pub(super) async fn next(&mut self) -> Health {
        match self.go_on().await {
            Ok(health) => health,
            Err(error) => Health::Dead(error.to_string()),
        }
    }

    async fn go_on(&mut self) -> Result<Health, ControlError> {
        let mut alarm_at = self.silent_at();
        let mut alarm = pin!(sleep_until(alarm_at));
        loop {
            // A peer whose messages never end lets other tasks have their turn.
            coop::consume_budget().await;
            let (silent_at, idle) = (self.silent_at(), self.unsent.is_empty());
            // Signs of life do not reset the timer: an early alarm is cheaper.
            if silent_at < alarm_at {
                alarm_at = silent_at;
                alarm.as_mut().reset(alarm_at);
            }
            let health = tokio::select! {
                biased;
                moved = self.messages.go_on(&mut self.unsent) => self.moved(moved)?,
                control = self.outgoing.recv(), if idle => {
                    // Never closed: `Liveness` holds the other end.
                    control.map_or(Ok(()), |control| self.send(*control))?;
                    None
                }
                () = self.pulse.due(), if idle => self.beat()?,
                () = &mut alarm => {
                    let health = self.alarmed()?;
                    alarm_at = self.silent_at();
                    alarm.as_mut().reset(alarm_at);
                    health
                }
            };
            if let Some(health) = health {
                return Ok(health);
            }
        }
    }

    /// When the peer will have been silent for too long.
    fn silent_at(&self) -> Instant {
        let allowed = if self.suspect { self.patience.limit } else { self.patience.suspect };
        self.silent_since() + allowed
    }

    /// When the silence began. A peer that takes no message counts as silent.
    fn silent_since(&self) -> Instant {
        if self.unsent.is_empty() { self.heard } else { self.heard.min(self.sending) }
    }

    fn alarmed(&mut self) -> Result<Option<Health>, ControlError> {
        let back = self.listen();
        let (now, Patience { suspect, limit, .. }) = (Instant::now(), self.patience);
        if now < self.silent_at() {
            return Ok(back);
        }
        if self.suspect || limit <= suspect {
            return Err(ControlError::Silent(if self.suspect { limit } else { suspect }));
        }
        self.set_suspect(true);
        Ok(Some(Health::Suspect))
    }

    fn set_suspect(&mut self, suspect: bool) {
        self.suspect = suspect;
        self.signs.suspect.send_replace(suspect);
    }

    fn moved(&mut self, moved: Result<Progress, Broken>) -> Result<Option<Health>, ControlError> {
        let health = match moved? {
            Progress::Heard(message) => self.heard(message)?,
            Progress::Sent => {
                self.answer()?;
                None
            }
        };
        Ok(health.or_else(|| self.take_back()))
    }

    /// Counts datagrams received by the link as signs of life.
    fn listen(&mut self) -> Option<Health> {
        if self.pulse.has_heard() {
            self.heard = Instant::now();
        }
        self.take_back()
    }

    fn take_back(&mut self) -> Option<Health> {
        if self.suspect && self.silent_since().elapsed() < self.patience.suspect {
            self.set_suspect(false);
            return Some(Health::Back);
        }
        None
    }

    fn heard(&mut self, message: Option<Bytes>) -> Result<Option<Health>, ControlError> {
        let message = message.ok_or(ControlError::Ended)?;
        self.heard = Instant::now();
        self.allowance.take(self.heard)?;
        match decode_control(message)? {
            Some(Control::Ping(Ping { number })) => {
                self.owed = Some(number);
                self.answer()?;
            }
            Some(Control::Alive(Alive { next_ms })) => {
                self.signs.promise(Duration::from_millis(next_ms.into()));
            }
            Some(Control::Drain(notice)) => return Ok(Some(Health::Draining(notice.reason))),
            Some(Control::Token(shown)) => return Ok(Some(Health::Token(shown.token))),
            Some(Control::Renew(notice)) => return Ok(Some(Health::Renew(notice.reason))),
            // Messages of the greeting, and of newer peers, have no meaning here.
            Some(Control::Pong(_) | Control::Hello(_) | Control::Welcome(_) | Control::Rejection(_))
            | None => {}
        }
        Ok(None)
    }

    /// Answers a ping as soon as nothing else is being sent.
    fn answer(&mut self) -> Result<(), ControlError> {
        match self.owed {
            Some(number) if self.unsent.is_empty() => {
                self.owed = None;
                self.send(Control::Pong(Pong { number }))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends a heartbeat if one is due.
    fn beat(&mut self) -> Result<Option<Health>, ControlError> {
        let back = self.listen();
        if let Some(control) = self.pulse.beat() {
            self.send(control)?;
        }
        Ok(back)
    }

    fn send(&mut self, control: Control) -> Result<(), ControlError> {
        self.unsent.push(encode_control(control)?);
        self.sending = Instant::now();
        Ok(())
    }
}
