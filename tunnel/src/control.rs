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

/// How often an agent says that it lives. Only agents ask, so that a server
/// with thousands of them has no timers to run but the deadlines.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// A peer not heard of for this long is dead: three heartbeats, so a lost one
/// harms nobody, and less than the 20 s that are promised.
pub const SILENCE: Duration = Duration::from_secs(15);

/// A peer that does not take a message of a few bytes for this long is dead too.
const SEND_LIMIT: Duration = Duration::from_secs(10);

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
    #[error("no sign of life for {} seconds", SILENCE.as_secs())]
    Silent,
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
    heard: Instant,
    number: u64,
}

impl Conversation {
    /// Goes on where the greeting ended.
    pub fn new(messages: Messages, role: Role) -> Self {
        Self { messages, role, heard: Instant::now(), number: 0 }
    }

    /// Waits for the peer's first message. An agent that keeps the tunnel sends
    /// a heartbeat at once; one that has a tunnel to this server already closes
    /// it instead. Cancel safe but for the answer to the heartbeat.
    ///
    /// # Errors
    /// When the peer leaves, or says nothing for as long as dead ones do.
    pub async fn begin(&mut self) -> Result<(), ControlError> {
        let first = timeout(SILENCE, self.messages.recv()).await.map_err(|_| ControlError::Silent)?;
        self.heard(first, &mut |_| {}).await
    }

    /// Keeps the conversation up until it fails: heartbeats, and messages from
    /// `outgoing`. What the peer says beyond heartbeats goes to `hear`.
    ///
    /// Dropping the future ends the conversation.
    pub async fn keep(
        &mut self,
        outgoing: &mut mpsc::Receiver<Control>,
        mut hear: impl FnMut(Control),
    ) -> ControlError {
        let mut beat = interval(HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (role, mut open) = (self.role, true);
        loop {
            let said = tokio::select! {
                biased;
                message = self.messages.recv() => self.heard(message, &mut hear).await,
                control = outgoing.recv(), if open => match control {
                    Some(control) => self.say(control).await,
                    None => { open = false; Ok(()) }
                },
                _ = beat.tick(), if role == Role::Agent => self.beat().await,
                () = sleep_until(self.heard + SILENCE) => Err(ControlError::Silent),
            };
            if let Err(error) = said {
                return error;
            }
        }
    }

    async fn heard(
        &mut self,
        message: Result<Option<Bytes>, Broken>,
        hear: &mut impl FnMut(Control),
    ) -> Result<(), ControlError> {
        let message = message?.ok_or(ControlError::Ended)?;
        self.heard = Instant::now();
        match decode_control(message)? {
            Some(Control::Ping(Ping { number })) => self.say(Control::Pong(Pong { number })).await,
            Some(Control::Pong(_)) | None => Ok(()),
            Some(other) => {
                hear(other);
                Ok(())
            }
        }
    }

    async fn beat(&mut self) -> Result<(), ControlError> {
        self.number += 1;
        self.say(Control::Ping(Ping { number: self.number })).await
    }

    async fn say(&mut self, control: Control) -> Result<(), ControlError> {
        let message = encode_control(control)?;
        timeout(SEND_LIMIT, self.messages.send(message)).await.map_err(|_| ControlError::Silent)??;
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
