//! The UDP socket under QUIC, which gives every datagram memory of its own.
//!
//! A kernel delivers up to 64 datagrams of one sender as one block. quinn copies the block,
//! and streams keep slices of the copy, so one unread chunk pins the whole block: targets
//! that did not read held 3 MB each, of a window of 1 MiB. Blocks are cut here.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};

/// Blocks taken from the kernel at a time. Fewer cost system calls; more cost memory.
const BLOCKS: usize = 4;

/// Bytes of the longest block: UDP's limit.
const BLOCK: usize = 1 << 16;

/// A socket that yields datagrams one by one.
#[derive(Debug)]
pub(super) struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    /// Only quinn's endpoint receives, so the lock is never contended.
    received: Mutex<Blocks>,
}

impl Socket {
    /// On the current runtime.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Arc<Self>> {
        Ok(Self::over(TokioRuntime.wrap_udp_socket(socket)?))
    }

    fn over(inner: Arc<dyn AsyncUdpSocket>) -> Arc<Self> {
        Arc::new(Self { inner, received: Mutex::new(Blocks::new()) })
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // Poison is harmless: a panic leaves the state between two datagrams.
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        if received.is_empty() {
            ready!(received.refill(cx, &*self.inner))?;
        }
        Poll::Ready(Ok(received.hand_out(bufs, metas)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Blocks received from the kernel and not taken by quinn yet.
struct Blocks {
    memory: Box<[u8]>,
    metas: [RecvMeta; BLOCKS],
    /// Number of filled blocks.
    filled: usize,
    /// The block that is being handed out.
    current: usize,
    /// Bytes handed out of the current block.
    offset: usize,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filled, current, offset, .. } = self;
        f.debug_struct("Blocks")
            .field("filled", filled)
            .field("current", current)
            .field("offset", offset)
            .finish_non_exhaustive()
    }
}

impl Blocks {
    fn new() -> Self {
        let memory = vec![0; BLOCKS * BLOCK].into();
        Self { memory, metas: [RecvMeta::default(); BLOCKS], filled: 0, current: 0, offset: 0 }
    }

    const fn is_empty(&self) -> bool {
        self.current == self.filled
    }

    fn refill(&mut self, cx: &mut Context<'_>, socket: &dyn AsyncUdpSocket) -> Poll<io::Result<()>> {
        let mut memory = self.memory.chunks_exact_mut(BLOCK);
        let mut bufs: [_; BLOCKS] =
            std::array::from_fn(|_| IoSliceMut::new(memory.next().unwrap_or_default()));
        self.filled = ready!(socket.poll_recv(cx, &mut bufs, &mut self.metas))?;
        (self.current, self.offset) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Copies out as many datagrams as there are buffers for. Returns their number.
    fn hand_out(&mut self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let mut datagrams = 0;
        for (buf, meta) in bufs.iter_mut().zip(metas) {
            let Some((datagram, of)) = self.next() else { break };
            // A datagram longer than the buffer is cut, as by a kernel. No peer sends one.
            let len = datagram.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta { len, stride: len, ..of };
            datagrams += 1;
        }
        datagrams
    }

    /// The next datagram. An empty one counts, so that a flood of them uses up the turn.
    fn next(&mut self) -> Option<(&[u8], RecvMeta)> {
        if self.is_empty() {
            return None;
        }
        let (block, of) = (self.current, self.metas[self.current]);
        let begin = self.offset;
        let end = of.len.min(begin + of.stride.max(1));
        self.offset = end;
        if end == of.len {
            (self.current, self.offset) = (block + 1, 0);
        }
        Some((&self.memory[block * BLOCK..][begin..end], of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes and the length of each datagram in them.
    type Block = (Vec<u8>, usize);

    /// Gives what it is told to give, a call at a time.
    #[derive(Debug)]
    struct Scripted(Mutex<Vec<Vec<Block>>>);

    impl AsyncUdpSocket for Scripted {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            unreachable!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            unreachable!("nothing is sent")
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            metas: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some(blocks) = self.0.lock().unwrap().pop() else { return Poll::Pending };
            for (n, (bytes, stride)) in blocks.iter().enumerate() {
                bufs[n][..bytes.len()].copy_from_slice(bytes);
                let addr = ([127, 0, 0, 1], n as u16).into();
                metas[n] = RecvMeta { addr, len: bytes.len(), stride: *stride, ..RecvMeta::default() };
            }
            Poll::Ready(Ok(blocks.len()))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(([127, 0, 0, 1], 1).into())
        }
    }

    /// The datagrams that come out of blocks, with buffers of six bytes and at most `at_once` of
    /// them: sizes of the turns, and each datagram with the port it came from.
    fn received(calls: Vec<Vec<(&[u8], usize)>>, at_once: usize) -> (Vec<usize>, Vec<(Vec<u8>, u16)>) {
        let owned = |blocks: Vec<(&[u8], usize)>| blocks.iter().map(|(b, s)| (b.to_vec(), *s)).collect();
        let script = calls.into_iter().rev().map(owned).collect();
        let socket = Socket::over(Arc::new(Scripted(Mutex::new(script))));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut turns, mut datagrams) = (Vec::new(), Vec::new());
        loop {
            let mut memory = vec![[0; 6]; at_once];
            let mut bufs: Vec<_> = memory.iter_mut().map(|buf| IoSliceMut::new(buf)).collect();
            let mut metas = vec![RecvMeta::default(); at_once];
            let Poll::Ready(n) = socket.poll_recv(&mut cx, &mut bufs, &mut metas) else { break };
            turns.push(n.unwrap());
            for (meta, buf) in metas.iter().zip(&memory).take(turns[turns.len() - 1]) {
                assert_eq!(meta.len, meta.stride, "one datagram");
                datagrams.push((buf[..meta.len].to_vec(), meta.addr.port()));
            }
        }
        (turns, datagrams)
    }

    #[test]
    fn blocks_are_cut_into_datagrams() {
        let (turns, datagrams) = received(vec![vec![(b"aaabbbc", 3), (b"ddd", 3)], vec![(b"e", 1)]], 32);
        assert_eq!(turns, [4, 1]);
        let expected: [(&[u8], u16); 5] = [(b"aaa", 0), (b"bbb", 0), (b"c", 0), (b"ddd", 1), (b"e", 0)];
        assert_eq!(datagrams, expected.map(|(bytes, port)| (bytes.to_vec(), port)));
    }

    #[test]
    fn what_there_are_no_buffers_for_comes_later() {
        let (turns, datagrams) = received(vec![vec![(b"aabbc", 2), (b"dd", 2)]], 2);
        assert_eq!(turns, [2, 2]);
        let bytes: Vec<_> = datagrams.into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(bytes, [&b"aa"[..], b"bb", b"c", b"dd"]);
    }

    /// An empty datagram has no stride. It is one, so that whoever sends many of them
    /// uses up the endpoint's turn.
    #[test]
    fn empty_datagrams_and_long_ones_hide_nothing() {
        let (turns, datagrams) = received(vec![vec![(b"", 0), (b"longest!ab", 8)]], 32);
        assert_eq!(turns, [3]);
        let bytes: Vec<_> = datagrams.into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(bytes, [&b""[..], b"longes", b"ab"]);
    }
}
