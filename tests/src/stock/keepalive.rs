//! The ping limits of a grpc-go server.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Konnectivity's server wants at least this long between two pings.
pub(super) const MIN_TIME: Duration = Duration::from_secs(30);

/// Early pings that are forgiven; the next one is answered with GOAWAY.
const FORGIVEN: u32 = 2;

/// Length of the connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: usize = 24;

const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const ACK: u8 = 1;

/// The pings of one connection.
#[derive(Debug, Default)]
pub(super) struct Pings {
    state: Mutex<State>,
    pub(super) too_many: Notify,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    early: u32,
    received: u32,
    /// The server has sent data or headers since the last ping, which resets the count.
    spoke: bool,
}

impl Pings {
    /// Pings that came, answers not counted.
    pub(super) fn received(&self) -> u32 {
        self.state.lock().unwrap().received
    }

    fn ping(&self, now: Instant) {
        let mut state = self.state.lock().unwrap();
        state.received += 1;
        let early = state.last.is_some_and(|last| now < last + MIN_TIME);
        state.last = Some(now);
        if std::mem::take(&mut state.spoke) {
            state.early = 0;
        } else if early {
            state.early += 1;
        }
        if state.early > FORGIVEN {
            self.too_many.notify_one();
        }
    }

    fn spoke(&self) {
        self.state.lock().unwrap().spoke = true;
    }
}

/// A server's socket, on which frames are watched as they pass.
#[derive(Debug)]
pub(super) struct Watched<S> {
    socket: S,
    pings: Arc<Pings>,
    incoming: Frames,
    outgoing: Frames,
}

impl<S> Watched<S> {
    pub(super) fn new(socket: S, pings: Arc<Pings>) -> Self {
        let incoming = Frames { skip: PREFACE, ..Frames::default() };
        Self { socket, pings, incoming, outgoing: Frames::default() }
    }
}

/// Position of one direction within its frames.
#[derive(Debug, Default)]
struct Frames {
    skip: usize,
    head: Vec<u8>,
}

impl Frames {
    /// Gives type and flags of each frame whose head ends in `bytes`.
    fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(u8, u8)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            let taken = (HEAD - self.head.len()).min(bytes.len() - skipped);
            self.head.extend_from_slice(&bytes[skipped..skipped + taken]);
            bytes = &bytes[skipped + taken..];
            if let [high, middle, low, kind, flags, ..] = self.head[..]
                && self.head.len() == HEAD
            {
                seen(kind, flags);
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.head.clear();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let done = Pin::new(&mut self.socket).poll_read(cx, into);
        let Self { incoming, pings, .. } = &mut *self;
        incoming.feed(&into.filled()[before..], |kind, flags| {
            if kind == PING && flags & ACK == 0 {
                pings.ping(Instant::now());
            }
        });
        done
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = done {
            let Self { outgoing, pings, .. } = &mut *self;
            outgoing.feed(&bytes[..written], |kind, _| {
                if kind == DATA || kind == HEADERS {
                    pings.spoke();
                }
            });
        }
        done
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_reads_are_cut() {
        let mut wire = vec![b'P'; PREFACE];
        wire.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        wire.extend_from_slice(&[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        wire.extend_from_slice(&[0, 0, 8, PING, ACK, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for size in 1..=wire.len() {
            let (mut frames, mut seen) = (Frames { skip: PREFACE, ..Frames::default() }, Vec::new());
            wire.chunks(size).for_each(|part| frames.feed(part, |kind, flags| seen.push((kind, flags))));
            assert_eq!(seen, [(4, 0), (PING, 0), (PING, ACK)], "in parts of {size}");
        }
    }

    #[test]
    fn the_third_early_ping_is_too_many() {
        let (pings, begin) = (Pings::default(), Instant::now());
        let early = |pings: &Pings| pings.state.lock().unwrap().early;
        for number in 0..3 {
            pings.ping(begin + number * MIN_TIME);
        }
        assert_eq!(early(&pings), 0, "pings that are far enough apart");
        let now = begin + 2 * MIN_TIME;
        pings.ping(now);
        pings.ping(now);
        assert_eq!(early(&pings), 2);
        pings.spoke();
        pings.ping(now);
        assert_eq!(early(&pings), 0, "the count begins anew once the server has spoken");
        for _ in 0..=FORGIVEN {
            pings.ping(now);
        }
        assert_eq!((early(&pings), pings.received()), (FORGIVEN + 1, 9));
    }
}
