//! Moving bytes between two ends until both directions are over.
//!
//! One task polls both directions. A direction that ends in order is finished
//! on the other end while the opposite one goes on (half-close). A sink that
//! takes no more bytes does not stop the opposite direction: what the peer said
//! before it went still arrives. Only a source that fails ends everything, and
//! the other end is told after its bytes were delivered.

mod budget;
mod stall;
mod watch;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::duplex::{Abort, Batch, Broken, Duplex, End, Flow};
pub use budget::Budget;
use stall::{Stall, Still};
pub use watch::{Counts, STALL};
use watch::{Lane, Watch};

/// How long a target may take to close after a client left that waits for
/// nothing any more. Closing at once could destroy bytes the target has not read.
const LINGER: Duration = Duration::from_secs(10);

/// How long an end may take to accept the last bytes before a reset.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// How many bytes of such a target are read and thrown away, beyond as many as
/// were sent to it (an echo, say). A target that sends more is not about to close.
const LINGER_BYTES: u64 = 1 << 20;

/// How often a half-closed end that cannot wake us is asked whether it is gone.
const GONE_CHECK: Duration = Duration::from_secs(5);

/// How often a direction that stands still is looked at. Its source is asked
/// whether it has gone away, which it could not say while nothing is received of
/// it; its wait may have become a stall ([`STALL`]); and what it keeps counts
/// against the process' [`Budget`].
const STALLED: Duration = Duration::from_secs(5);

/// How long bytes of a client that has gone away altogether are kept for a target
/// that takes none of them. Longer than [`LINGER`]: the target may be busy, and a
/// client on a Unix socket that has said all it had to say looks no different.
const ABANDONED: Duration = Duration::from_secs(60);

/// Batches moved in one poll before other tasks get their turn.
const TURNS: usize = 16;

/// Which end, from the point of view of who called [`relay`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first end: the client on a server, the tunnel on an agent.
    Near,
    /// The second end.
    Far,
}

/// How a relayed connection ended. Not a `Result`: a reset is as ordinary an
/// end as a close, and who caused it is what people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Both directions ended in order.
    Clean,
    /// One end failed.
    Broken {
        /// Whose failure it was.
        side: Side,
        /// What it was.
        why: Broken,
    },
    /// This end went away while the other was still sending.
    Left(Side),
    /// As `Left`, and the other end did not close in time and was cut.
    Lingered(Side),
}

impl Ending {
    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Broken { side: Side::Near, .. } => "near_broken",
            Self::Broken { side: Side::Far, .. } => "far_broken",
            Self::Left(Side::Near) => "near_left",
            Self::Left(Side::Far) => "far_left",
            Self::Lingered(_) => "lingered",
        }
    }

    /// What broke, if something did.
    pub const fn broken(&self) -> Option<&Broken> {
        match self {
            Self::Broken { why, .. } => Some(why),
            Self::Clean | Self::Left(_) | Self::Lingered(_) => None,
        }
    }

    /// What broke, for metrics; "none" if nothing did.
    pub const fn why(&self) -> &'static str {
        match self.broken() {
            Some(why) => why.label(),
            None => "none",
        }
    }
}

/// What the relays of connections of one kind share.
#[derive(Debug)]
pub struct Meter {
    up: Lane,
    down: Lane,
}

impl Meter {
    /// `up` counts from the near to the far end, `down` the opposite direction.
    pub fn new(up: impl Counts + 'static, down: impl Counts + 'static, budget: Arc<Budget>) -> Self {
        Self {
            up: Lane { counts: Box::new(up), budget: Arc::clone(&budget) },
            down: Lane { counts: Box::new(down), budget },
        }
    }
}

impl Default for Meter {
    /// Counts nothing, and has a budget of its own without a limit.
    fn default() -> Self {
        Self::new((), (), Arc::default())
    }
}

/// What was relayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes from the near to the far end.
    pub up: u64,
    /// Bytes from the far to the near end.
    pub down: u64,
}

/// Relays between `near` and `far` until both directions are over.
///
/// With `hold`, bytes of the far end wait until the near end has sent something
/// or the time has passed. A connection that stands still is given up, with
/// [`Broken::Overflow`], when the budget is used up and it has stood for the longest.
///
/// Not cancel safe in the sense that bytes in flight are lost, as with a reset:
/// dropping the future and both ends is how a connection is cut.
pub fn relay<'a, N: Duplex, F: Duplex>(
    near: &'a mut N,
    far: &'a mut F,
    hold: Option<Duration>,
    meter: &'a Meter,
    moved: &'a mut Moved,
) -> impl Future<Output = Ending> + use<'a, N, F> {
    let state = Relay {
        up: Direction::new(&meter.up),
        down: Direction::new(&meter.down),
        hold: hold.map(|time| Box::pin(sleep_until(Instant::now() + time))),
        timer: None,
        stall: None,
        telling: None,
    };
    Relaying { state, near, far, moved }
}

/// The future of [`relay`]. Written by hand, because every connection has one
/// for all its life: as an `async` block it was half as large again.
struct Relaying<'a, N, F> {
    state: Relay<'a>,
    near: &'a mut N,
    far: &'a mut F,
    moved: &'a mut Moved,
}

impl<N: Duplex, F: Duplex> Future for Relaying<'_, N, F> {
    type Output = Ending;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ending> {
        let Self { state, near, far, moved } = self.get_mut();
        let telling = match &mut state.telling {
            Some(telling) => telling,
            None => {
                let ending = state.poll(cx, *near, *far);
                **moved = Moved { up: state.up.moved, down: state.down.moved };
                let ending = ready!(ending);
                match &ending {
                    Ending::Clean | Ending::Left(_) => return Poll::Ready(ending),
                    // It was given up because the other end does not read.
                    Ending::Broken { side, why: Broken::Overflow { .. } } => {
                        match side {
                            Side::Near => far.abort(Abort::Now),
                            Side::Far => near.abort(Abort::Now),
                        }
                        return Poll::Ready(ending);
                    }
                    Ending::Lingered(_) => {
                        near.abort(Abort::Now);
                        far.abort(Abort::Now);
                        return Poll::Ready(ending);
                    }
                    Ending::Broken { side, .. } => {
                        let whom = if *side == Side::Near { Side::Far } else { Side::Near };
                        state.telling.insert(Box::new(Telling::new(whom, ending)))
                    }
                }
            }
        };
        match telling.whom {
            Side::Near => ready!(telling.poll(cx, *near)),
            Side::Far => ready!(telling.poll(cx, *far)),
        }
        Poll::Ready(telling.ending.clone())
    }
}

/// Bad news for one end: what was handed to it goes out before.
struct Telling {
    whom: Side,
    ending: Ending,
    limit: Pin<Box<Sleep>>,
}

impl Telling {
    fn new(whom: Side, ending: Ending) -> Self {
        Self { whom, ending, limit: Box::pin(sleep_until(Instant::now() + FLUSH_LIMIT)) }
    }

    fn poll<D: Duplex>(&mut self, cx: &mut Context<'_>, end: &mut D) -> Poll<()> {
        let how = match end.poll_flush(cx) {
            Poll::Ready(Ok(())) => Abort::AfterData,
            Poll::Ready(Err(_)) => Abort::Now,
            // One that takes nothing for so long does not get the rest.
            Poll::Pending => {
                ready!(self.limit.as_mut().poll(cx));
                Abort::Now
            }
        };
        end.abort(how);
        Poll::Ready(())
    }
}

struct Relay<'a> {
    up: Direction<'a>,
    down: Direction<'a>,
    hold: Option<Pin<Box<Sleep>>>,
    /// For linger and gone checks: only in half-closed connections, so that
    /// ordinary ones do not pay for it.
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when a direction stands still: for connections that do, only.
    stall: Option<Box<Stall<'a>>>,
    /// The connection is over, and one end has not been told yet.
    telling: Option<Box<Telling>>,
}

impl Relay<'_> {
    fn poll<N: Duplex, F: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        near: &mut N,
        far: &mut F,
    ) -> Poll<Ending> {
        let up = self.up.poll(cx, near, far);
        if let Poll::Ready(Err(why)) = up {
            return Poll::Ready(Ending::Broken { side: Side::Near, why });
        }
        let down_was_done = self.down.done;
        let down = if self.poll_hold(cx).is_ready() { self.down.poll(cx, far, near) } else { Poll::Pending };
        if let Poll::Ready(Err(why)) = down {
            return Poll::Ready(Ending::Broken { side: Side::Far, why });
        }
        if let Poll::Ready(ending) = self.poll_stalled(cx, near, far) {
            return Poll::Ready(ending);
        }
        if self.down.done && !down_was_done && !self.up.done {
            // Finishing an end may have ended its other direction as well.
            cx.waker().wake_by_ref();
        }
        match (self.up.done, self.down.done) {
            (false, false) => Poll::Pending,
            (true, true) => Poll::Ready(self.ending()),
            (true, false) => {
                Self::poll_half(cx, &self.up, &mut self.down, (near, Side::Near), far, &mut self.timer)
            }
            (false, true) => {
                Self::poll_half(cx, &self.down, &mut self.up, (far, Side::Far), near, &mut self.timer)
            }
        }
    }

    /// Both directions are over; but if one of them could not deliver, the end
    /// that took no more bytes broke the connection.
    fn ending(&self) -> Ending {
        match (self.up.undelivered(), self.down.undelivered()) {
            (Some(why), _) => Ending::Broken { side: Side::Far, why: why.clone() },
            (None, Some(why)) => Ending::Broken { side: Side::Near, why: why.clone() },
            (None, None) => Ending::Clean,
        }
    }

    /// Ready when a direction that stands still turns out to have lost its source,
    /// or keeps more than there is room for.
    fn poll_stalled<N: Duplex, F: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        near: &mut N,
        far: &mut F,
    ) -> Poll<Ending> {
        if !self.up.blocked && !self.down.blocked {
            // Kept until it fires, so that a connection that is blocked now and
            // then does not set a timer each time.
            if let Some(stall) = &mut self.stall {
                stall.kept = None;
                if stall.timer.is_elapsed() {
                    self.stall = None;
                }
            }
            return Poll::Pending;
        }
        let moved = self.up.moved + self.down.moved;
        let stall = self.stall.get_or_insert_with(|| {
            let since = Instant::now();
            Box::new(Stall { timer: Box::pin(sleep_until(since + STALLED)), moved, since, kept: None })
        });
        // The timer is left alone while bytes move: setting it costs more than a look.
        while stall.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.up.watch.look(now);
            self.down.watch.look(now);
            if std::mem::replace(&mut stall.moved, moved) == moved {
                if self.up.blocked
                    && let Poll::Ready(why) = near.poll_broken(cx)
                {
                    return Poll::Ready(Ending::Broken { side: Side::Near, why });
                }
                if self.up.blocked && now - stall.since >= ABANDONED && near.poll_gone(cx).is_ready() {
                    return Poll::Ready(Ending::Lingered(Side::Near));
                }
                if self.down.blocked
                    && let Poll::Ready(why) = far.poll_broken(cx)
                {
                    return Poll::Ready(Ending::Broken { side: Side::Far, why });
                }
            } else {
                stall.since = now;
            }
            let still = Still::of(&self.up, &self.down, near, far, now);
            if let Some(over) = stall.keep(self.up.watch.budget(), still) {
                return Poll::Ready(over);
            }
            stall.timer.as_mut().reset(now + STALLED);
        }
        Poll::Pending
    }

    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(hold) = &mut self.hold else { return Poll::Ready(()) };
        if self.up.moved == 0 && !self.up.done && hold.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.hold = None;
        Poll::Ready(())
    }

    /// One direction (`done`) is over, the one out of `source` is still open.
    /// `quiet` sends no more; it may have gone away altogether, and then nobody
    /// waits for the rest.
    fn poll_half<Q: Duplex, S: Duplex>(
        cx: &mut Context<'_>,
        done: &Direction<'_>,
        open: &mut Direction<'_>,
        (quiet, by): (&mut Q, Side),
        source: &mut S,
        timer: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<Ending> {
        loop {
            if open.left_since().is_none()
                && (done.end == Some(End::Closed) || quiet.poll_gone(cx).is_ready())
            {
                // Its own end is told at once: on some links that is how the
                // peer learns that everything arrived.
                let _ = quiet.poll_finish(cx, End::Fin);
                if source.stop_receiving() {
                    return Poll::Ready(Ending::Left(by));
                }
                let discarding = open.discard();
                discarding.since = Some(discarding.bytes);
                *timer = None;
                // What the direction holds is now to be thrown away.
                cx.waker().wake_by_ref();
            }
            let left = open.left_since();
            if left.is_some_and(|thrown_away| thrown_away > done.moved + LINGER_BYTES) {
                return Poll::Ready(Ending::Lingered(by));
            }
            let wait = if left.is_some() { LINGER } else { GONE_CHECK };
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + wait)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if left.is_some() {
                return Poll::Ready(Ending::Lingered(by));
            }
            timer.as_mut().reset(Instant::now() + GONE_CHECK);
        }
    }
}

struct Direction<'a> {
    batch: Batch,
    watch: Watch<'a>,
    moved: u64,
    /// The source's end, once it came.
    end: Option<End>,
    /// There are bytes, and the sink takes none for now.
    blocked: bool,
    done: bool,
    /// The sink takes nothing any more: read on, and throw away. Boxed, because
    /// most connections never come to it and all of them have room for it.
    discarding: Option<Box<Discarding>>,
}

/// A direction whose bytes nobody wants.
#[derive(Default)]
struct Discarding {
    /// Bytes thrown away.
    bytes: u64,
    /// Set when the sink's end left: what had been thrown away by then.
    since: Option<u64>,
    /// Why, if that was not what the sink's peer meant to do.
    undelivered: Option<Broken>,
}

impl<'a> Direction<'a> {
    fn new(lane: &'a Lane) -> Self {
        Self {
            batch: Batch::default(),
            watch: Watch::new(lane),
            moved: 0,
            end: None,
            blocked: false,
            done: false,
            discarding: None,
        }
    }

    fn discard(&mut self) -> &mut Discarding {
        self.discarding.get_or_insert_default()
    }

    /// Bytes thrown away since the sink's end left, if it has.
    fn left_since(&self) -> Option<u64> {
        let discarding = self.discarding.as_ref()?;
        discarding.since.map(|since| discarding.bytes - since)
    }

    /// When the sink took something last, if that is [`STALLED`] ago.
    fn still(&self, now: Instant) -> Option<Instant> {
        self.watch.since().filter(|since| now - *since >= STALLED)
    }

    fn undelivered(&self) -> Option<&Broken> {
        self.discarding.as_ref()?.undelivered.as_ref()
    }

    /// Ready when the direction is over or its source failed.
    fn poll<S: Duplex, D: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
    ) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            self.blocked = self.poll_sink(cx, source, sink).is_pending();
            if self.blocked {
                return Poll::Pending;
            }
            if self.end.is_some() {
                self.done = true;
                self.batch.shrink();
                return Poll::Ready(Ok(()));
            }
            match source.poll_recv(cx, &mut self.batch) {
                Poll::Ready(Ok(Flow::More)) => {}
                Poll::Ready(Ok(Flow::End(end))) => self.end = Some(end),
                Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                Poll::Pending => {
                    self.batch.shrink();
                    return self.poll_idle(cx, sink);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when the batch is empty and, after the end, the sink finished.
    fn poll_sink<S: Duplex, D: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
    ) -> Poll<()> {
        while self.discarding.is_none() && !self.batch.is_empty() {
            let before = self.batch.len();
            let sent = sink.poll_send(cx, &mut self.batch);
            let n = before - self.batch.len();
            if n > 0 {
                self.moved += n as u64;
                self.watch.took(n);
                source.consumed(n);
            }
            match sent {
                Poll::Ready(Ok(())) => self.watch.ends(),
                Poll::Ready(Err(why)) => self.give_up(why),
                Poll::Pending => {
                    self.watch.waits(n > 0);
                    self.batch.compact();
                    return Poll::Pending;
                }
            }
        }
        if let Some(discarding) = &mut self.discarding {
            self.watch.ends();
            let dropped = self.batch.clear();
            discarding.bytes += dropped as u64;
            source.consumed(dropped);
            return Poll::Ready(());
        }
        if let Some(end) = self.end {
            match sink.poll_finish(cx, end) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(why)) => self.give_up(why),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// The source has nothing for now: what the sink holds back goes out.
    fn poll_idle<D: Duplex>(&mut self, cx: &mut Context<'_>, sink: &mut D) -> Poll<Result<(), Broken>> {
        if self.discarding.is_none()
            && self.moved > 0
            && let Poll::Ready(Err(why)) = sink.poll_flush(cx)
        {
            self.give_up(why);
        }
        Poll::Pending
    }

    fn give_up(&mut self, why: Broken) {
        self.discard().undelivered = Some(why);
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
