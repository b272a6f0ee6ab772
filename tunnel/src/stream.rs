//! One stream of a tunnel, with one meaning on every link.
//!
//! | what happens | quic | h2 |
//! | --- | --- | --- |
//! | finish | FIN | END_STREAM |
//! | finish, and read no more | STOP_SENDING 0, then FIN | trailers `closed` |
//! | read no more, after finish | STOP_SENDING 0 | reset CANCEL |
//! | give up after the data | STOP_SENDING 1, then FIN | trailers `reset` |
//! | give up now | RESET_STREAM 1 and STOP_SENDING 1 | reset INTERNAL_ERROR |
//! | dropped without finish | as "give up now" | as "give up now" |
//!
//! On a konnectivity link there is one kind of end for both directions, and no
//! half-close; see [`crate::packets`].

use std::task::{Context, Poll, ready};

use bytes::Bytes;

use crate::duplex::{Abort, Batch, Broken, Duplex, End, Flow};
use crate::packets::Member;
use crate::transport::link::Link;
use crate::transport::{h2, quic};

/// A bidirectional flow of bytes in a tunnel.
#[derive(Debug)]
pub struct Stream {
    link: LinkStream,
    /// Bytes that came behind a header, until they are consumed.
    early: Option<Box<Early>>,
}

// Every idle connection in a tunnel holds one.
const _: () = assert!(size_of::<Stream>() <= 104);

#[derive(Debug, Default)]
struct Early {
    /// Received next.
    unread: Bytes,
    /// Number of the next bytes whose flow-control credit was given already.
    credited: usize,
}

#[derive(Debug)]
enum LinkStream {
    H2(h2::Stream),
    Quic(quic::Stream),
    Packets(Member),
}

impl From<h2::Stream> for Stream {
    fn from(stream: h2::Stream) -> Self {
        Self { link: LinkStream::H2(stream), early: None }
    }
}

impl From<quic::Stream> for Stream {
    fn from(stream: quic::Stream) -> Self {
        Self { link: LinkStream::Quic(stream), early: None }
    }
}

impl From<Member> for Stream {
    fn from(member: Member) -> Self {
        Self { link: LinkStream::Packets(member), early: None }
    }
}

impl Stream {
    /// The stream's number in its tunnel, for logs.
    pub fn id(&self) -> u64 {
        match &self.link {
            LinkStream::H2(stream) => stream.id(),
            LinkStream::Quic(stream) => stream.id(),
            LinkStream::Packets(member) => member.id().unsigned_abs(),
        }
    }

    /// The link that carries it.
    pub const fn link(&self) -> Link {
        match &self.link {
            LinkStream::H2(_) => Link::H2,
            LinkStream::Quic(_) => Link::Quic,
            LinkStream::Packets(_) => Link::Konnectivity,
        }
    }

    /// Puts bytes back, to be received next.
    pub fn unread(&mut self, bytes: Bytes) {
        let (mut unread, mut credited) = (bytes, 0);
        if let Some(early) = self.early.take() {
            credited = early.credited;
            if !early.unread.is_empty() {
                unread = [unread, early.unread].concat().into();
            }
        }
        let credited = credited.max(unread.len());
        self.early = (credited > 0).then(|| Box::new(Early { unread, credited }));
    }

    /// Ready when the peer has reset the stream or reads no more. For the time before
    /// anything else is received. A peer on QUIC that has sent bytes already is not watched: servers send
    /// none before the answer.
    pub(crate) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.link {
            LinkStream::H2(stream) => stream.poll_cancelled(cx),
            LinkStream::Quic(_) if self.early.is_some() => Poll::Pending,
            LinkStream::Quic(_) => self.poll_ahead(cx).map(drop),
            LinkStream::Packets(member) => member.poll_gone(cx),
        }
    }

    /// QUIC only: ready when receiving fails. Keeps the byte that it finds out with, so each call may take
    /// one from the peer.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let LinkStream::Quic(stream) = &mut self.link else { return Poll::Pending };
        match ready!(stream.poll_peek(cx)) {
            Ok(Some(byte)) => {
                let early = self.early.get_or_insert_with(|| Box::new(Early::default()));
                early.credited += byte.len();
                early.unread = [std::mem::take(&mut early.unread), byte].concat().into();
                Poll::Pending
            }
            Ok(None) => Poll::Pending,
            Err(why) => Poll::Ready(why),
        }
    }

    /// Waits until the peer has everything, after a relay and before the stream is dropped.
    /// On h2 a server waits for the agent's end, or HTTP/2 would discard queued bytes. On quic
    /// only a tunnel that is about to close (`closing`) waits. The caller limits the time.
    /// Cancel safe.
    pub async fn settle(&mut self, closing: bool) {
        match &mut self.link {
            LinkStream::H2(stream) => stream.settle().await,
            LinkStream::Quic(stream) if closing => stream.settle().await,
            LinkStream::Quic(_) | LinkStream::Packets(_) => {}
        }
    }
}

impl Duplex for Stream {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        if let Some(early) = &mut self.early
            && !early.unread.is_empty()
        {
            batch.push(std::mem::take(&mut early.unread));
            return Poll::Ready(Ok(Flow::More));
        }
        match &mut self.link {
            LinkStream::H2(stream) => stream.poll_recv(cx, batch),
            LinkStream::Quic(stream) => stream.poll_recv(cx, batch),
            LinkStream::Packets(member) => member.poll_recv(cx, batch),
        }
    }

    fn consumed(&mut self, n: usize) {
        let n = match &mut self.early {
            Some(early) => {
                let credited = n.min(early.credited);
                early.credited -= credited;
                if early.credited == 0 {
                    self.early = None;
                }
                n - credited
            }
            None => n,
        };
        match &mut self.link {
            LinkStream::H2(stream) => stream.consumed(n),
            // quinn gives credit when bytes are read; packets have no credit.
            LinkStream::Quic(_) | LinkStream::Packets(_) => {}
        }
    }

    fn held(&mut self, received: usize) -> usize {
        match &mut self.link {
            LinkStream::H2(stream) => stream.held(received),
            LinkStream::Quic(stream) => stream.held(received),
            LinkStream::Packets(member) => member.held(received),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        match &mut self.link {
            LinkStream::H2(stream) => stream.poll_send(cx, batch),
            LinkStream::Quic(stream) => stream.poll_send(cx, batch),
            LinkStream::Packets(member) => member.poll_send(cx, batch),
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, end: End) -> Poll<Result<(), Broken>> {
        match &mut self.link {
            LinkStream::H2(stream) => Poll::Ready(stream.finish(end)),
            LinkStream::Quic(stream) => Poll::Ready(stream.finish(end)),
            LinkStream::Packets(member) => member.poll_finish(cx, end),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.link {
            LinkStream::H2(stream) => stream.poll_gone(cx),
            LinkStream::Quic(stream) => stream.poll_gone(cx),
            LinkStream::Packets(member) => member.poll_gone(cx),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match &mut self.link {
            LinkStream::H2(stream) => stream.poll_broken(cx),
            LinkStream::Quic(_) => self.poll_ahead(cx),
            LinkStream::Packets(member) => member.poll_broken(cx),
        }
    }

    fn stop_receiving(&mut self) -> bool {
        match &mut self.link {
            LinkStream::H2(stream) => stream.stop_receiving(),
            LinkStream::Quic(stream) => stream.stop_receiving(),
            LinkStream::Packets(member) => return member.stop_receiving(),
        }
        true
    }

    fn abort(&mut self, how: Abort) {
        match &mut self.link {
            LinkStream::H2(stream) => stream.abort(how),
            LinkStream::Quic(stream) => stream.abort(how),
            LinkStream::Packets(member) => member.abort(how),
        }
    }
}
