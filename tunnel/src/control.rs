//! Messages on a stream, and the conversation on the control stream.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::message::{Control, MAX_CONTROL, MessageError, Ping, Pong, decode_control, encode_control};

use crate::duplex::{Batch, Broken, Duplex as _, End, Flow};
use crate::stream::Stream;
use crate::transport::Link;

/// How often an agent says that it lives. Only agents ask, so that a server
/// with thousands of them has no timers to run but the deadlines.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often an agent with streams does so when it hears nothing at all. Shorter
/// than a server takes to find it dead (two seconds of silence, and a "port
/// unreachable" of its host, which a NAT that has forgotten it says as well): the
/// heartbeat shows the server where the agent is to be found now.
const QUICK_HEARTBEAT: Duration = Duration::from_secs(1);

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
            Link::Quic => self,
            Link::H2 | Link::Konnectivity => Self { limit: self.suspect, ..self },
        }
    }
}

/// What happens in a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer said something beyond heartbeats.
    Said(Control),
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

/// A stream that carries length-prefixed messages, at least for a while.
#[derive(Debug)]
pub struct Messages {
    stream: Stream,
    deframer: Deframer,
}

impl Messages {
    /// Reads messages of at most `limit` bytes from `stream`.
    pub fn new(stream: Stream, limit: usize) -> Self {
        Self { stream, deframer: Deframer::short(limit) }
    }

    /// The next message; `None` when the peer ended the stream in order.
    /// Cancel safe.
    ///
    /// # Errors
    /// When the stream fails, a message is too long or incomplete.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, Broken> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            match self.deframer.next() {
                Ok(Some(message)) => return Poll::Ready(Ok(Some(message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(Broken::Protocol(error.to_string()))),
            }
            let mut batch = Batch::default();
            let flow = ready!(self.stream.poll_recv(cx, &mut batch))?;
            if let Flow::End(_) = flow {
                return Poll::Ready(if self.deframer.is_mid_message() {
                    Err(Broken::Protocol("stream ended within a message".to_owned()))
                } else {
                    Ok(None)
                });
            }
            self.stream.consumed(batch.len());
            while let Some(chunk) = batch.take(usize::MAX) {
                self.deframer.push(chunk);
            }
        }
    }

    /// Sends an encoded message. Not cancel safe: half of it may have gone.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Broken> {
        let mut batch = Batch::default();
        batch.push(message);
        poll_fn(|cx| self.stream.poll_send(cx, &mut batch)).await
    }

    /// Sends what is `unsent`, or receives a message, whichever is done first.
    /// Cancel safe.
    async fn go_on(&mut self, unsent: &mut Batch) -> Result<Moved, Broken> {
        poll_fn(|cx| {
            if !unsent.is_empty() && self.stream.poll_send(cx, unsent)?.is_ready() {
                return Poll::Ready(Ok(Moved::Said));
            }
            self.poll_recv(cx).map_ok(Moved::Heard)
        })
        .await
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn finish(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.stream.poll_finish(cx, End::Fin)).await
    }

    /// Ready when the peer has given the stream up; see
    /// [`Stream::poll_cancelled`]. Cancel safe.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.stream.poll_cancelled(cx)).await;
    }

    /// Gives the stream back; what was received behind the last message is
    /// received next.
    pub fn into_stream(mut self) -> Stream {
        self.stream.unread(self.deframer.into_rest());
        self.stream
    }
}

/// Which end of the conversation this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends heartbeats.
    Agent,
    /// Answers them.
    Server,
}

/// The control stream after Hello and Welcome.
#[derive(Debug)]
pub struct Conversation {
    messages: Messages,
    role: Role,
    patience: Patience,
    heard: Instant,
    suspect: bool,
    /// The last heartbeat that was sent.
    beat: Option<(u64, Instant)>,
    /// A heartbeat of the peer that is to be answered; only the last one counts.
    owed: Option<u64>,
    /// What is being said, one message at a time, and since when.
    unsent: Batch,
    saying: Instant,
}

/// What moved on the control stream.
enum Moved {
    /// A message came; `None` is the end.
    Heard(Option<Bytes>),
    /// All that was to be said is on its way.
    Said,
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
            beat: None,
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
    pub async fn begin(&mut self) -> Result<(), ControlError> {
        let silence = self.patience.suspect;
        let first =
            timeout(silence, self.messages.recv()).await.map_err(|_| ControlError::Silent(silence))?;
        self.heard(first?, &mut |_| {})
    }

    /// Keeps the conversation up until it fails: heartbeats, and messages from
    /// `outgoing`. What happens beyond heartbeats goes to `hear`. An agent that
    /// hears nothing asks `hurry` every second whether to send one more heartbeat.
    ///
    /// Dropping the future ends the conversation.
    pub async fn keep(
        &mut self,
        outgoing: &mut mpsc::Receiver<Control>,
        hurry: impl Fn() -> bool,
        mut hear: impl FnMut(Event),
    ) -> ControlError {
        let mut tick = interval(QUICK_HEARTBEAT.min(self.patience.heartbeat));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (is_agent, mut open) = (self.role == Role::Agent, true);
        loop {
            let (silent_at, idle) = (self.silent_since() + self.silence_allowed(), self.unsent.is_empty());
            let went = tokio::select! {
                biased;
                moved = self.messages.go_on(&mut self.unsent) => self.moved(moved, &mut hear),
                control = outgoing.recv(), if open && idle => match control {
                    Some(control) => self.say(control),
                    None => { open = false; Ok(()) }
                },
                now = tick.tick(), if is_agent && idle => self.beat(now, &hurry),
                () = sleep_until(silent_at) => self.silent(&mut hear),
            };
            if let Err(error) = went {
                return error;
            }
        }
    }

    /// One that takes no message of a few bytes is as good as silent.
    fn silent_since(&self) -> Instant {
        if self.unsent.is_empty() { self.heard } else { self.heard.min(self.saying) }
    }

    fn silence_allowed(&self) -> Duration {
        if self.suspect { self.patience.limit } else { self.patience.suspect }
    }

    fn silent(&mut self, hear: &mut impl FnMut(Event)) -> Result<(), ControlError> {
        let Patience { suspect, limit, .. } = self.patience;
        if self.suspect || limit <= suspect {
            return Err(ControlError::Silent(self.silence_allowed()));
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
        if self.suspect && self.silent_since().elapsed() < self.patience.suspect {
            self.suspect = false;
            hear(Event::Back);
        }
        Ok(())
    }

    fn heard(&mut self, message: Option<Bytes>, hear: &mut impl FnMut(Event)) -> Result<(), ControlError> {
        let message = message.ok_or(ControlError::Ended)?;
        self.heard = Instant::now();
        match decode_control(message)? {
            Some(Control::Ping(Ping { number })) => {
                self.owed = Some(number);
                self.answer()
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
    fn beat(&mut self, now: Instant, hurry: &impl Fn() -> bool) -> Result<(), ControlError> {
        let number = match self.beat {
            // Half a tick, because ticks come a little earlier or later.
            Some((number, last)) => {
                let due = now.duration_since(last) + QUICK_HEARTBEAT / 2 >= self.patience.heartbeat;
                let hurried = now.duration_since(self.heard) >= QUICK_HEARTBEAT / 2 && hurry();
                if !due && !hurried {
                    return Ok(());
                }
                number + 1
            }
            None => 1,
        };
        self.beat = Some((number, now));
        self.say(Control::Ping(Ping { number }))
    }

    fn say(&mut self, control: Control) -> Result<(), ControlError> {
        self.unsent.push(encode_control(control)?);
        self.saying = Instant::now();
        Ok(())
    }
}

/// Reads the first message of a control stream.
///
/// # Errors
/// When it is not a control message.
pub async fn greeting(messages: &mut Messages) -> Result<Control, ControlError> {
    let message = messages.recv().await?.ok_or(ControlError::Ended)?;
    Ok(decode_control(message)?.ok_or(MessageError::Empty)?)
}

/// Wraps a control stream.
pub fn control_messages(stream: Stream) -> Messages {
    Messages::new(stream, MAX_CONTROL)
}
