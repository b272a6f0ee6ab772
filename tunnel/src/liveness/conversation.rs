//! The control stream after the greeting: heartbeats, their answers and drain notices.

mod pulse;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::coop;
use tokio::time::{Instant, sleep_until, timeout};
use tunnel_proto::message::{Alive, Control, Ping, Pong, Suspect, decode_control, encode_control};

use super::allowance::Allowance;
use super::signs::{Health, Patience, Signs};
use crate::duplex::{Batch, Broken};
use crate::messages::{ControlError, Messages, Progress};

pub(super) use pulse::Pulse;

/// Bytes that fill any datagram of QUIC, the smallest of which have 1,200. Fewer, and the answer passes
/// where bulk does not; more costs bytes.
const FILLING: usize = 1200;

/// Time for signs of life that have come already, or come at once, to be read. Less, and a process that was
/// stopped for a while blames its peers; more delays new tunnels.
const READ: Duration = Duration::from_secs(1);

/// The control stream of one tunnel.
pub(super) struct Conversation {
    messages: Messages,
    outgoing: mpsc::Receiver<Box<Control>>,
    pulse: Pulse,
    patience: Patience,
    signs: Arc<Signs>,
    allowance: Allowance,
    /// When the peer last gave a sign of life: servers hear the agent, agents learn that the
    /// server has heard them.
    heard: Instant,
    suspect: bool,
    /// The peer's last ping without an answer.
    owed: Option<Ping>,
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
            // Followed by the end.
            Err(_) if self.ends_in_silence() => Health::Suspect,
            Err(error) => Health::Dead(error.to_string()),
        }
    }

    async fn go_on(&mut self) -> Result<Health, ControlError> {
        let mut alarm_at = self.silent_at();
        let mut alarm = pin!(sleep_until(alarm_at));
        // When the peer has to have been heard, after this process has slept.
        let mut excused = Instant::now();
        loop {
            // A peer whose messages never end lets other tasks have their turn.
            coop::consume_budget().await;
            let (silent_at, idle) = (self.silent_at().max(excused), self.unsent.is_empty());
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
                    // This process slept through it, and has not read what was said meanwhile.
                    let is_late = alarm_at.elapsed() > READ;
                    let health = if is_late { None } else { self.alarmed()? };
                    if is_late {
                        excused = Instant::now() + READ;
                    }
                    alarm_at = self.silent_at().max(excused);
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
        if self.suspect {
            // Without answers, but with acknowledgements, streams of few bytes go on.
            return self.deaf_since() + self.patience.limit;
        }
        self.silent_since() + self.patience.suspect
    }

    /// When the silence began. A peer that leaves a ping without an answer, or that full packets do not reach, counts
    /// as silent.
    fn silent_since(&self) -> Instant {
        let deaf = self.deaf_since();
        self.pulse.in_vain().map_or(deaf, |since| deaf.min(since))
    }

    /// When the peer last gave a sign of life. One that takes no message gives none.
    fn deaf_since(&self) -> Instant {
        if self.unsent.is_empty() { self.heard } else { self.heard.min(self.sending) }
    }

    fn alarmed(&mut self) -> Result<Option<Health>, ControlError> {
        let back = self.listen();
        let (now, Patience { suspect, limit, .. }) = (Instant::now(), self.patience);
        if now < self.silent_at() {
            return Ok(back);
        }
        let is_tcp = limit <= suspect;
        // An agent tells first, since it judges the link by that.
        if self.suspect || (is_tcp && self.pulse.only_answers()) {
            return Err(ControlError::Silent(limit));
        }
        self.set_suspect(true);
        if self.pulse.only_answers() && self.unsent.is_empty() {
            let silent_ms = u32::try_from(suspect.as_millis()).unwrap_or(u32::MAX);
            self.send(Control::Suspect(Suspect { silent_ms }))?;
        }
        Ok(Some(Health::Suspect))
    }

    /// Agents: the server does not hear this end. Believed only of an agent that has had no
    /// proof of the contrary for a while, and gets none at once: the word may come late, after a blackout.
    fn doubted(&mut self) {
        if self.pulse.has_proof() {
            self.heard = Instant::now();
        }
        let suspect = self.patience.suspect;
        if !self.pulse.only_answers() && self.heard.elapsed() > suspect / 2 {
            let silent = suspect.saturating_sub(READ);
            self.heard = Instant::now().checked_sub(silent).map_or(self.heard, |at| self.heard.min(at));
        }
    }

    /// The tunnel is over. Returns whether an agent had waited for proof for long: its server has only
    /// given up first, and the link is to be judged as if the agent had. True once.
    pub(super) fn ends_in_silence(&mut self) -> bool {
        let is_silent =
            !self.pulse.only_answers() && self.silent_since().elapsed() > self.patience.suspect / 2;
        let is_news = is_silent && !self.suspect;
        if is_news {
            self.set_suspect(true);
        }
        is_news
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

    /// Counts the link's acknowledgements as signs of life.
    fn listen(&mut self) -> Option<Health> {
        if self.pulse.has_proof() {
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
        let now = Instant::now();
        self.allowance.take(now)?;
        if self.pulse.only_answers() {
            self.heard = now;
        }
        match decode_control(message)? {
            Some(Control::Ping(ping)) => {
                self.owed = Some(ping);
                self.answer()?;
            }
            Some(Control::Alive(Alive { next_ms })) => {
                self.signs.promise(Duration::from_millis(next_ms.into()));
            }
            Some(Control::Pong(_)) => {
                if self.pulse.answered() {
                    self.heard = Instant::now();
                }
            }
            Some(Control::Suspect(_)) => self.doubted(),
            Some(Control::Drain(notice)) => {
                return Ok(Some(Health::Draining { reason: notice.reason, taken: notice.taken }));
            }
            Some(Control::Token(shown)) => return Ok(Some(Health::Token(shown.token))),
            Some(Control::Renew(notice)) => return Ok(Some(Health::Renew(notice.reason))),
            // Messages of the greeting, and of newer peers, have no meaning here.
            Some(Control::Hello(_) | Control::Welcome(_) | Control::Rejection(_)) | None => {}
        }
        Ok(None)
    }

    /// Answers a ping as soon as nothing else is being sent.
    fn answer(&mut self) -> Result<(), ControlError> {
        match self.owed {
            Some(Ping { number, fill }) if self.unsent.is_empty() => {
                self.owed = None;
                let padding = if fill { Bytes::from_static(&[0; FILLING]) } else { Bytes::new() };
                self.send(Control::Pong(Pong { number, padding }))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends a heartbeat if one is due.
    fn beat(&mut self) -> Result<Option<Health>, ControlError> {
        let back = self.listen();
        for control in self.pulse.beat() {
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
