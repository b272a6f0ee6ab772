//! The relay against scripted ends, in virtual time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;

use bytes::Bytes;
use tokio::time::advance;

use super::watch::STALL;
use super::*;
use crate::duplex::{Batch, Flow};

mod endings;
mod stalls;

/// The behaviour of an end that is received from.
#[derive(Debug, Clone)]
enum Step {
    Data(&'static str),
    End(End),
    Fail(Broken),
}

/// The events of an end.
#[derive(Debug, Default)]
struct Seen {
    sent: Vec<u8>,
    finished: Option<End>,
    aborted: Option<Abort>,
    stopped: bool,
    consumed: usize,
}

/// An end whose script and limits a test changes while the relay runs.
#[derive(Debug, Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    steps: VecDeque<Step>,
    /// Bytes that it takes before it blocks; `None` is any number.
    room: Option<usize>,
    send_error: Option<Broken>,
    gone: bool,
    /// Whether it has read what it was sent, if that can be known.
    has_read: Option<bool>,
    /// Whether `stop_receiving` works, as on streams.
    can_stop: bool,
    seen: Seen,
    waker: Option<Waker>,
}

impl Scripted {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let end = Self::default();
        end.with(|script| script.steps.extend(steps));
        end
    }

    fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let mut script = self.0.lock().unwrap();
        let result = change(&mut script);
        if let Some(waker) = script.waker.take() {
            waker.wake();
        }
        result
    }

    fn sent(&self) -> String {
        String::from_utf8(self.with(|script| script.seen.sent.clone())).unwrap()
    }
}

impl Duplex for Scripted {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        let mut script = self.0.lock().unwrap();
        match script.steps.front().cloned() {
            Some(Step::Data(text)) => {
                script.steps.pop_front();
                batch.push(Bytes::from_static(text.as_bytes()));
                Poll::Ready(Ok(Flow::More))
            }
            Some(Step::End(end)) => Poll::Ready(Ok(Flow::End(end))),
            Some(Step::Fail(why)) => Poll::Ready(Err(why)),
            None => {
                script.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn has_read(&self) -> Option<bool> {
        self.0.lock().unwrap().has_read
    }

    fn consumed(&mut self, n: usize) {
        self.0.lock().unwrap().seen.consumed += n;
    }

    fn held(&mut self, received: usize) -> usize {
        received
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        let mut script = self.0.lock().unwrap();
        if let Some(error) = &script.send_error {
            return Poll::Ready(Err(error.clone()));
        }
        assert_eq!(script.seen.finished, None, "bytes after the end");
        let room = script.room.unwrap_or(usize::MAX);
        while let Some(taken) = batch.take(room - script.seen.sent.len().min(room)) {
            if taken.is_empty() {
                break;
            }
            script.seen.sent.extend_from_slice(&taken);
        }
        if batch.is_empty() {
            return Poll::Ready(Ok(()));
        }
        script.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, end: End) -> Poll<Result<(), Broken>> {
        self.0.lock().unwrap().seen.finished.get_or_insert(end);
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut script = self.0.lock().unwrap();
        if script.gone {
            return Poll::Ready(());
        }
        script.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let mut script = self.0.lock().unwrap();
        match script.steps.front() {
            Some(Step::Fail(why)) => Poll::Ready(why.clone()),
            Some(Step::Data(_) | Step::End(_)) | None => {
                script.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn stop_receiving(&mut self) -> bool {
        let mut script = self.0.lock().unwrap();
        script.seen.stopped = true;
        script.can_stop
    }

    fn abort(&mut self, how: Abort) {
        self.0.lock().unwrap().seen.aborted.get_or_insert(how);
    }
}

/// Bytes, waiting, waits that are over and their seconds, stalled, stalls.
type Numbers = (u64, i64, u64, u64, i64, u64);

/// Counts of one direction that a test reads.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Numbers>>);

impl Told {
    fn get(&self) -> Numbers {
        *self.0.lock().unwrap()
    }
}

impl Counts for Told {
    fn took(&self, bytes: u64) {
        self.0.lock().unwrap().0 += bytes;
    }

    fn wait_began(&self) {
        self.0.lock().unwrap().1 += 1;
    }

    fn wait_ended(&self, waited: Duration) {
        let mut told = self.0.lock().unwrap();
        told.1 -= 1;
        told.2 += 1;
        told.3 += waited.as_secs_f64().round() as u64;
    }

    fn stall_began(&self) {
        let mut told = self.0.lock().unwrap();
        told.4 += 1;
        told.5 += 1;
    }

    fn stall_ended(&self) {
        self.0.lock().unwrap().4 -= 1;
    }
}

/// A meter, and the counts of its directions up and down.
fn metered() -> (Arc<Meter>, Told, Told) {
    let (up, down) = (Told::default(), Told::default());
    (Arc::new(Meter::new(up.clone(), down.clone(), Arc::default())), up, down)
}

/// Runs a relay in the background; the result comes through the handle.
fn start(
    near: &Scripted,
    far: &Scripted,
    hold: Option<Duration>,
) -> tokio::task::JoinHandle<(Ending, Moved)> {
    start_metered(near, far, hold, Arc::default())
}

fn start_metered(
    near: &Scripted,
    far: &Scripted,
    hold: Option<Duration>,
    meter: Arc<Meter>,
) -> tokio::task::JoinHandle<(Ending, Moved)> {
    let (mut near, mut far) = (near.clone(), far.clone());
    #[expect(clippy::disallowed_methods, reason = "a test awaits its own task")]
    tokio::spawn(async move {
        let mut moved = Moved::default();
        let ending = relay(&mut near, &mut far, hold, &meter, &mut moved).await;
        (ending, moved)
    })
}

async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

const FIN: Step = Step::End(End::Fin);
const CLOSED: Step = Step::End(End::Closed);
