//! Ends of a relay in memory, and a relay between two of them that a guard
//! drives step by step.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::runtime::Runtime;
use tunnel::duplex::{Abort, Batch, Broken, Duplex, End, Flow};
use tunnel::relay::{Ending, Meter, Moved, relay};

/// Bytes in a chunk that an end says.
pub const CHUNK: usize = 64 * 1024;

/// The next acts of an end. Clones are the same script, so that it can be
/// changed while the relay has the end.
#[derive(Debug, Clone, Default)]
struct Script {
    /// Chunks that it says before it is silent.
    says: Rc<Cell<usize>>,
    /// Whether it says its end behind them.
    ends: Rc<Cell<bool>>,
    /// Bytes that it takes before it is full.
    room: Rc<Cell<usize>>,
}

/// An end that needs no memory of its own: what it says is one chunk over and
/// over, what it takes is dropped.
#[derive(Debug)]
struct Memory {
    script: Script,
    chunk: Bytes,
}

impl Duplex for Memory {
    fn poll_recv(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        match self.script.says.get() {
            0 if self.script.ends.get() => Poll::Ready(Ok(Flow::End(End::Fin))),
            0 => Poll::Pending,
            left => {
                self.script.says.set(left - 1);
                batch.push(self.chunk.clone());
                Poll::Ready(Ok(Flow::More))
            }
        }
    }

    fn consumed(&mut self, _: usize) {}

    fn held(&mut self, received: usize) -> usize {
        received
    }

    fn poll_send(&mut self, _: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        let taken = batch.len().min(self.script.room.get());
        batch.advance(taken);
        self.script.room.set(self.script.room.get() - taken);
        if batch.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, _: End) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn poll_broken(&mut self, _: &mut Context<'_>) -> Poll<Broken> {
        Poll::Pending
    }

    fn stop_receiving(&mut self) -> bool {
        true
    }

    fn abort(&mut self, _: Abort) {}
}

/// A relay that runs, from an end that speaks to one that listens.
pub struct Relayed {
    near: Script,
    far: Script,
    task: Pin<Box<dyn Future<Output = Ending>>>,
    /// For the relay's timers, which are set where a sink is full.
    runtime: Runtime,
}

impl Relayed {
    /// A relay that has moved a few chunks each way it will be driven, so that
    /// what is made once is made.
    pub fn warm() -> Self {
        let (near, far) = (Script::default(), Script::default());
        let (mut from, mut to) = (memory(&near), memory(&far));
        let task = Box::pin(async move {
            relay(&mut from, &mut to, None, &Meter::default(), &mut Moved::default()).await
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut relayed = Self { near, far, task, runtime };
        relayed.flow(64);
        relayed.turns(8);
        relayed.blocked(8);
        relayed
    }

    /// So many chunks that come and go without a pause.
    pub fn flow(&mut self, chunks: usize) {
        self.far.room.set(usize::MAX);
        self.near.says.set(chunks);
        while self.near.says.get() > 0 {
            self.poll();
        }
    }

    /// So many chunks with a pause behind each: what a keystroke costs.
    pub fn turns(&mut self, chunks: usize) {
        self.far.room.set(usize::MAX);
        for _ in 0..chunks {
            self.near.says.set(1);
            self.poll();
        }
    }

    /// So many chunks, each of which the sink takes in two halves, with a wait
    /// between them.
    pub fn blocked(&mut self, chunks: usize) {
        for _ in 0..chunks {
            self.near.says.set(1);
            for _ in 0..2 {
                self.far.room.set(CHUNK / 2);
                self.poll();
            }
        }
        assert_eq!(self.far.room.get(), 0, "the sink took all of it");
    }

    fn poll(&mut self) {
        let _guard = self.runtime.enter();
        let ended = self.task.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(ended.is_pending(), "nobody ended the connection: {ended:?}");
    }
}

/// Two ends and a meter for whole connections.
#[derive(Debug)]
pub struct Connections {
    near: Memory,
    far: Memory,
    meter: Meter,
}

impl Default for Connections {
    fn default() -> Self {
        Self { near: memory(&Script::default()), far: memory(&Script::default()), meter: Meter::default() }
    }
}

impl Connections {
    /// Relays a chunk in each direction and both ends, from beginning to end.
    pub fn one(&mut self) {
        for end in [&self.near, &self.far] {
            end.script.says.set(1);
            end.script.ends.set(true);
            end.script.room.set(CHUNK);
        }
        let mut moved = Moved::default();
        let task = pin!(relay(&mut self.near, &mut self.far, None, &self.meter, &mut moved));
        let ended = task.poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(ended, Poll::Ready(Ending::Clean));
    }

    /// Bytes that a relay takes in the task of its connection, besides its ends.
    pub fn relay_bytes(&mut self) -> usize {
        let mut moved = Moved::default();
        size_of_val(&relay(&mut self.near, &mut self.far, None, &self.meter, &mut moved))
    }
}

fn memory(script: &Script) -> Memory {
    static ZEROES: [u8; CHUNK] = [0; CHUNK];
    Memory { script: script.clone(), chunk: Bytes::from_static(&ZEROES) }
}
