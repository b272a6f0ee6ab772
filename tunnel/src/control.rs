//! The conversation on the control stream, and messages on any stream.

mod messages;

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tunnel_proto::message::{Alive, Control, MessageError, Ping, Pong, decode_control, encode_control};

use crate::duplex::{Batch, Broken};
use crate::signs::{LONGEST, Rhythm, UNPROMISED, on_grid, part_of, promised, speak_at};
use crate::transport::{Link, Tunnel};

pub use messages::{Messages, control_messages, greeting};

use messages::Moved;

/// How often an agent asks whether the server lives, on links that do not tell
/// what has arrived. Only agents ask, so that a server with thousands of them has
/// no timers to run but the deadlines.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// A peer not heard of for this long is taken for dead: three heartbeats, so a
/// lost one harms nobody, and less than the 20 s that are promised.
const SILENCE: Duration = Duration::from_secs(15);

/// How long streams wait for a silent peer, on links that survive a cut of the
/// network. QUIC tries again after ever longer pauses, each at most as long as
/// the cut has lasted by then, so half a minute is always survived.
const CUT: Duration = Duration::from_secs(70);

/// When a silent peer is no longer relied upon, and when it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After this long the peer is *suspect*: it gets no new work.
    pub suspect: Duration,
    /// After this long the tunnel is over. Not longer than `suspect` on links
    /// that do not survive a cut.
    pub limit: Duration,
    /// How often an agent says that it lives.
    pub heartbeat: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { suspect: SILENCE, limit: CUT, heartbeat: HEARTBEAT }
    }
}

impl Patience {
    /// What there is of it on a link. On TCP a cut of half a minute is the end in
    /// any case, more often than not.
    #[must_use]
    pub fn on(self, link: Link) -> Self {
        match link {
            Link::Quic => Self { heartbeat: self.heartbeat.min(LONGEST), ..self },
            Link::H2 | Link::Konnectivity => Self { limit: self.suspect, ..self },
        }
    }
}

/// Where to put what an end wants to say of its own accord. Boxed, because a channel
/// has room for 32 of its items from the beginning, whatever it may hold.
pub type Say = mpsc::Sender<Box<Control>>;

/// The other end of a [`Say`].
pub type Notices = mpsc::Receiver<Box<Control>>;

/// What happens in a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer said something beyond heartbeats.
    Said(Control),
    /// The peer, an agent, lives, and is heard of again after this at the latest.
    Alive(Duration),
    /// The peer is suspect.
    Suspect,
    /// It was heard of again.
    Back,
}

/// A conversation that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// The stream under it failed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// What was received is not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer ended the stream.
    #[error("the peer ended the conversation")]
    Ended,
    /// Nothing was heard of the peer for too long.
    #[error("no sign of life for {} seconds", .0.as_secs())]
    Silent(Duration),
}

/// Which end of the conversation this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends heartbeats.
    Agent,
    /// Answers them.
    Server,
}

/// What an agent needs to say of its own accord that it lives, on links that tell
/// what has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Voice<'a> {
    /// The tunnel of the conversation.
    pub tunnel: &'a Tunnel,
    /// Its streams.
    pub streams: &'a AtomicUsize,
    /// Told when there is one where none was.
    pub began: &'a Notify,
    /// Whether the server reads what is promised. One that does not is told every
    /// second that an agent with streams lives, as it expects.
    pub is_understood: bool,
}

/// How this end shows that it lives.
enum Pulse<'a> {
    /// It answers.
    Answers,
    /// It asks, and the answers show that the peer lives: how often it does, when
    /// next, and how often it has.
    Asks(Duration, Instant, u64),
    /// It says so, and acknowledgements show that the peer lives: no answer is made
    /// for that, which would have to be acknowledged again. Datagrams received so
    /// far.
    Says(Rhythm, Voice<'a>, u64),
}

impl<'a> Pulse<'a> {
    fn new(role: Role, voice: Option<Voice<'a>>, heartbeat: Duration) -> Self {
        match (role, voice) {
            (Role::Server, _) => Self::Answers,
            (Role::Agent, Some(voice)) => {
                let busy = if voice.is_understood { heartbeat } else { heartbeat.min(UNPROMISED / 2) };
                Self::Says(Rhythm::new(heartbeat, busy, Instant::now()), voice, 0)
            }
            (Role::Agent, None) => Self::Asks(heartbeat, Instant::now(), 0),
        }
    }

    /// Ready when it is time to see what to say. Cancel safe.
    async fn due(&mut self) {
        match self {
            Self::Answers => std::future::pending().await,
            Self::Asks(_, due, _) => sleep_until(*due).await,
            Self::Says(rhythm, voice, _) => loop {
                tokio::select! {
                    biased;
                    () = sleep_until(rhythm.due()) => return,
                    () = voice.began.notified() => rhythm.begun(Instant::now()),
                }
            },
        }
    }

    /// Whether the link tells that the peer was heard of since this was asked last.
    fn has_heard(&mut self) -> bool {
        let Self::Says(_, voice, received) = self else { return false };
        let before = std::mem::replace(received, voice.tunnel.received().unwrap_or_default());
        *received != before
    }

    /// What is to be said now.
    fn say(&mut self) -> Option<Control> {
        match self {
            Self::Answers => None,
            Self::Asks(every, due, number) => {
                *number += 1;
                let pause = if *number == 1 { part_of(*every) } else { *every };
                *due = speak_at(Instant::now(), pause);
                Some(Control::Ping(Ping { number: *number }))
            }
            Self::Says(rhythm, voice, _) => {
                let busy = voice.streams.load(Ordering::Acquire) > 0;
                let traffic = voice.tunnel.traffic().unwrap_or_default();
                let word = rhythm.look(Instant::now(), traffic, busy)?;
                if word.urgent {
                    voice.tunnel.nudge();
                }
                let next_ms = u32::try_from(word.next.as_millis()).unwrap_or(u32::MAX);
                Some(Control::Alive(Alive { next_ms }))
            }
        }
    }
}

/// The control stream after Hello and Welcome.
#[derive(Debug)]
pub struct Conversation {
    messages: Messages,
    role: Role,
    patience: Patience,
    heard: Instant,
    suspect: bool,
    /// A heartbeat of the peer that is to be answered; only the last one counts.
    owed: Option<u64>,
    /// What is being said, one message at a time, and since when.
    unsent: Batch,
    saying: Instant,
}

impl Conversation {
    /// Goes on where the greeting ended.
    pub fn new(messages: Messages, role: Role, patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            messages,
            role,
            patience,
            heard: now,
            suspect: false,
            owed: None,
            unsent: Batch::default(),
            saying: now,
        }
    }

    /// Waits for the peer's first message. An agent that keeps the tunnel sends
    /// a heartbeat at once; one that has a tunnel to this server already closes
    /// it instead. Cancel safe.
    ///
    /// # Errors
    /// When the peer leaves, or says nothing for as long as dead ones do.
    pub async fn begin(&mut self, mut hear: impl FnMut(Event)) -> Result<(), ControlError> {
        let silence = self.patience.suspect;
        let first =
            timeout(silence, self.messages.recv()).await.map_err(|_| ControlError::Silent(silence))?;
        self.heard(first?, &mut hear)
    }

    /// Keeps the conversation up until it fails: heartbeats, and messages from
    /// `outgoing`. What happens beyond heartbeats goes to `hear`. An agent with a
    /// `voice` says that it lives, one without asks.
    ///
    /// Dropping the future ends the conversation.
    pub async fn keep(
        &mut self,
        outgoing: &mut Notices,
        voice: Option<Voice<'_>>,
        mut hear: impl FnMut(Event),
    ) -> ControlError {
        let mut pulse = Pulse::new(self.role, voice, self.patience.heartbeat);
        let (mut open, mut alarm_at) = (true, on_grid(self.silent_at()));
        let mut alarm = pin!(sleep_until(alarm_at));
        loop {
            let (silent_at, idle) = (on_grid(self.silent_at()), self.unsent.is_empty());
            // Signs of life put it off, and that it is too early then is cheaper
            // than setting a timer for each of them.
            if silent_at < alarm_at {
                alarm_at = silent_at;
                alarm.as_mut().reset(alarm_at);
            }
            let went = tokio::select! {
                biased;
                moved = self.messages.go_on(&mut self.unsent) => self.moved(moved, &mut hear),
                control = outgoing.recv(), if open && idle => match control {
                    Some(control) => self.say(*control),
                    None => { open = false; Ok(()) }
                },
                () = pulse.due(), if idle => self.beat(&mut pulse, &mut hear),
                () = &mut alarm => {
                    let went = self.alarmed(&mut pulse, &mut hear);
                    alarm_at = on_grid(self.silent_at());
                    alarm.as_mut().reset(alarm_at);
                    went
                }
            };
            if let Err(error) = went {
                return error;
            }
        }
    }

    /// When the peer has been silent for too long, unless it is heard of before.
    fn silent_at(&self) -> Instant {
        let allowed = if self.suspect { self.patience.limit } else { self.patience.suspect };
        self.silent_since() + allowed
    }

    /// One that takes no message of a few bytes is as good as silent.
    fn silent_since(&self) -> Instant {
        if self.unsent.is_empty() { self.heard } else { self.heard.min(self.saying) }
    }

    fn alarmed(&mut self, pulse: &mut Pulse<'_>, hear: &mut impl FnMut(Event)) -> Result<(), ControlError> {
        self.listen(pulse, hear);
        let (now, Patience { suspect, limit, .. }) = (Instant::now(), self.patience);
        if now < self.silent_at() {
            return Ok(());
        }
        if self.suspect || limit <= suspect {
            return Err(ControlError::Silent(if self.suspect { limit } else { suspect }));
        }
        self.suspect = true;
        hear(Event::Suspect);
        Ok(())
    }

    fn moved(
        &mut self,
        moved: Result<Moved, Broken>,
        hear: &mut impl FnMut(Event),
    ) -> Result<(), ControlError> {
        match moved? {
            Moved::Heard(message) => self.heard(message, hear)?,
            Moved::Said => self.answer()?,
        }
        self.take_back(hear);
        Ok(())
    }

    /// Takes notice of what the link tells.
    fn listen(&mut self, pulse: &mut Pulse<'_>, hear: &mut impl FnMut(Event)) {
        if pulse.has_heard() {
            self.heard = Instant::now();
            self.take_back(hear);
        }
    }

    fn take_back(&mut self, hear: &mut impl FnMut(Event)) {
        if self.suspect && self.silent_since().elapsed() < self.patience.suspect {
            self.suspect = false;
            hear(Event::Back);
        }
    }

    fn heard(&mut self, message: Option<Bytes>, hear: &mut impl FnMut(Event)) -> Result<(), ControlError> {
        let message = message.ok_or(ControlError::Ended)?;
        self.heard = Instant::now();
        match decode_control(message)? {
            Some(Control::Ping(Ping { number })) => {
                self.owed = Some(number);
                self.answer()
            }
            Some(Control::Alive(Alive { next_ms })) => {
                hear(Event::Alive(promised(next_ms)));
                Ok(())
            }
            Some(Control::Pong(_)) | None => Ok(()),
            Some(other) => {
                hear(Event::Said(other));
                Ok(())
            }
        }
    }

    /// Answers a heartbeat as soon as nothing else is being said.
    fn answer(&mut self) -> Result<(), ControlError> {
        match self.owed {
            Some(number) if self.unsent.is_empty() => {
                self.owed = None;
                self.say(Control::Pong(Pong { number }))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Sends a heartbeat if it is time for one.
    fn beat(&mut self, pulse: &mut Pulse<'_>, hear: &mut impl FnMut(Event)) -> Result<(), ControlError> {
        self.listen(pulse, hear);
        match pulse.say() {
            Some(control) => self.say(control),
            None => Ok(()),
        }
    }

    fn say(&mut self, control: Control) -> Result<(), ControlError> {
        self.unsent.push(encode_control(control)?);
        self.saying = Instant::now();
        Ok(())
    }
}
