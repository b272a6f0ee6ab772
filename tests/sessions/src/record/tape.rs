//! Takes down what a peer writes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_tests::raw::Io;

use crate::ears::{ACK, Ears, PREFACE, SETTINGS, next_frame};
use crate::lane::Lane;
use crate::marks::Marks;
use crate::session::Step;

/// The steps so far. Clones are the same tape.
#[derive(Debug, Clone)]
pub(super) struct Tape(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    marks: Marks,
    ears: Ears,
    written: BytesMut,
    acknowledged: bool,
    steps: Vec<Step>,
}

impl Tape {
    pub(super) fn new(lane: Lane, marks: Marks) -> Self {
        let (ears, written) = (Ears::on(lane), BytesMut::new());
        let state = State { marks, ears, written, acknowledged: false, steps: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// The steps, with the end of the connection. What the other end did after the last of them may have been
    /// a further dial.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = self.state().steps.clone();
        let after = steps.last().map_or(0, |step| step.after);
        steps.push(Step::finish(after, 0));
        steps
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wrote(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        let events = self.ears.heard.events;
        if self.written.starts_with(PREFACE) {
            self.steps.push(Step::send(events, 0, self.written.split_to(PREFACE.len())));
        }
        while let Some(frame) = next_frame(&mut self.written) {
            // Whether the other end changes its settings once more depends on the time.
            let acknowledges = frame[3] == SETTINGS && frame[4] & ACK != 0;
            if !acknowledges || !std::mem::replace(&mut self.acknowledged, true) {
                self.steps.push(Step::send(events, 0, frame));
            }
        }
    }
}

/// A connection whose written bytes are taken down, before marks in them are replaced.
pub(super) struct Tap {
    io: Box<dyn Io>,
    tape: Tape,
}

impl Tap {
    pub(super) const fn new(io: Box<dyn Io>, tape: Tape) -> Self {
        Self { io, tape }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.tape.state().ears.hear(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut real = buf.to_vec();
        {
            let state = self.tape.state();
            state.marks.put(&mut real, state.ears.heard.number);
        }
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, &real))?;
        self.tape.state().wrote(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
