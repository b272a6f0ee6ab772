//! Length-prefixed messages on a stream: the control stream, and the head of every other.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::message::{Control, MAX_CONTROL, MessageError, decode_control};

use crate::duplex::{Batch, Broken, Duplex as _, End, Flow};
use crate::stream::Stream;

/// Time for each end of a tunnel to do its part of the greeting. Below it, agents on slow
/// networks are turned away; above it, strangers hold their place for longer.
pub(crate) const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// A stream that carries length-prefixed messages.
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

    /// Receives the next message; `None` when the peer ended the stream in order. Cancel safe.
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

    /// Sends an encoded message. Not cancel safe: a part may have been sent.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Broken> {
        let mut batch = Batch::default();
        batch.push(message);
        poll_fn(|cx| self.stream.poll_send(cx, &mut batch)).await
    }

    /// Sends `unsent`, or receives a message, whichever is done first. Cancel safe.
    pub(crate) async fn go_on(&mut self, unsent: &mut Batch) -> Result<Progress, Broken> {
        poll_fn(|cx| {
            if !unsent.is_empty() && self.stream.poll_send(cx, unsent)?.is_ready() {
                return Poll::Ready(Ok(Progress::Sent));
            }
            self.poll_recv(cx).map_ok(Progress::Heard)
        })
        .await
    }

    /// Ends this end's direction. Cancel safe.
    ///
    /// # Errors
    /// When the stream fails.
    pub async fn finish(&mut self) -> Result<(), Broken> {
        poll_fn(|cx| self.stream.poll_finish(cx, End::Fin)).await
    }

    /// Waits until the peer gives the stream up. Cancel safe.
    pub async fn cancelled(&mut self) {
        poll_fn(|cx| self.stream.poll_cancelled(cx)).await;
    }

    /// Returns the stream. Bytes behind the last message are received next.
    pub(crate) fn into_stream(mut self) -> Stream {
        self.stream.unread(self.deframer.into_rest());
        self.stream
    }
}

/// A control stream that failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// The stream under it failed.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The bytes received are not a message.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The peer ended the stream.
    #[error("the peer ended the control stream")]
    Ended,
    /// The peer sends more messages than any correct one.
    #[error("the peer sends too many control messages")]
    Flood,
    /// Nothing was received from the peer for too long.
    #[error("no sign of life for {} seconds", .0.as_secs())]
    Silent(Duration),
}

/// The outcome of one step on the control stream.
pub(crate) enum Progress {
    /// A message was received; `None` is the end of the stream.
    Heard(Option<Bytes>),
    /// Everything unsent was handed to the link.
    Sent,
}

/// Reads the first message of a control stream. Cancel safe.
///
/// # Errors
/// When it is not a control message.
pub async fn greeting(messages: &mut Messages) -> Result<Control, ControlError> {
    let message = messages.recv().await?.ok_or(ControlError::Ended)?;
    Ok(decode_control(message)?.ok_or(MessageError::Empty)?)
}

/// Wraps a control stream.
pub fn control_messages(stream: impl Into<Stream>) -> Messages {
    Messages::new(stream.into(), MAX_CONTROL)
}
