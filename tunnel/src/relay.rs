//! Moves bytes between two ends until both directions are over.
//!
//! One task polls both directions. A direction that ends in order is finished on the other
//! end while the opposite direction goes on (half-close). A sink that takes no more bytes
//! does not stop the opposite direction. A source that fails ends both directions; the
//! other end is reset after the bytes received before the failure are delivered.

mod budget;
mod direction;
mod ending;
mod hold;
mod stall;
mod watch;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::duplex::{Abort, Broken, Duplex, End};
use direction::Direction;
use hold::Hold;
use stall::{STALL_CHECK, Stall, Stalled};

pub use budget::Budget;
pub(crate) use budget::SMALL_PART;
pub use ending::{Ending, Side};
pub use watch::{Counts, Meter};

/// Time for a target to close after its client left in both directions. Below it, closing
/// may destroy bytes that a slow target has not read. Above it, dead connections are kept.
const LINGER: Duration = Duration::from_secs(10);

/// Time for an end to accept the last bytes before it is reset. Below it, a slow reader
/// loses them; above it, connections of dead peers are kept.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of such a target that are read and discarded, beyond as many as were sent to it
/// (an echo server's). A target that sends more is not about to close.
const LINGER_BYTES: u64 = 1 << 20;

/// Interval at which a half-closed end is checked for a close that wakes no task. Shorter
/// costs timers; longer keeps connections whose client is gone.
const GONE_CHECK: Duration = Duration::from_secs(5);

/// Time for which the bytes of a client that is gone are kept for a target that takes
/// none. Longer than [`LINGER`], since a busy target may still read, and a client on a Unix
/// socket that closed after its last byte looks the same.
const ABANDONED: Duration = Duration::from_secs(60);

/// The bytes relayed in each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes from the near to the far end.
    pub up: u64,
    /// Bytes from the far to the near end.
    pub down: u64,
}

/// Relays between `near` and `far` until both directions are over.
///
/// With `hold`, bytes of the far end wait until the near end has sent something, or has read what it was
/// sent before; where that cannot be known, until the time has passed. When the budget is exceeded, the connections stalled for the longest end
/// with [`Broken::Overflow`].
///
/// Not cancel safe: bytes in flight are lost. Dropping the future and both ends cuts the
/// connection.
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
        hold: hold.map(|blind| Box::new(Hold::new(blind))),
        timer: None,
        stall: None,
        telling: None,
    };
    Relaying { state, near, far, moved }
}

/// The future of [`relay`]. Written by hand: as an `async` block it is half as large again,
/// and every connection holds one for all its life.
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
                    // The other end does not read, so nothing is flushed to it.
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

/// Resets one end after the other failed, once its last bytes are flushed.
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
    hold: Option<Box<Hold>>,
    /// For [`LINGER`] and [`GONE_CHECK`]. Half-closed connections only.
    timer: Option<Pin<Box<Sleep>>>,
    /// Stalled connections only.
    stall: Option<Box<Stall<'a>>>,
    /// The connection is over, and one end is still to be reset.
    telling: Option<Box<Telling>>,
}

// Every idle connection holds one.
const _: () = assert!(size_of::<Relay<'_>>() <= 224);

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
        let down =
            if self.poll_hold(cx, near).is_ready() { self.down.poll(cx, far, near) } else { Poll::Pending };
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
                Self::poll_half(cx, &self.up, &mut self.down, near, Side::Near, far, &mut self.timer)
            }
            (false, true) => {
                Self::poll_half(cx, &self.down, &mut self.up, far, Side::Far, near, &mut self.timer)
            }
        }
    }

    /// The ending when both directions are over. A client that took no more bytes, and had ended
    /// in order, wanted none; a target that takes no more has lost bytes that the client wanted
    /// it to have.
    fn ending(&self) -> Ending {
        match (self.up.undelivered(), self.down.undelivered()) {
            (Some(why), _) => Ending::Broken { side: Side::Far, why: why.clone() },
            (None, Some(Broken::Stopped)) => Ending::Left(Side::Near),
            (None, Some(why)) => Ending::Broken { side: Side::Near, why: why.clone() },
            (None, None) => Ending::Clean,
        }
    }

    /// Ready when a stalled direction has lost its source, or holds more than the budget
    /// allows.
    fn poll_stalled<N: Duplex, F: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        near: &mut N,
        far: &mut F,
    ) -> Poll<Ending> {
        if !self.up.blocked && !self.down.blocked {
            // The timer is kept until it fires: setting one at each short block costs more.
            if let Some(stall) = &mut self.stall {
                stall.held = None;
                if stall.timer.is_elapsed() {
                    self.stall = None;
                }
            }
            return Poll::Pending;
        }
        let moved = self.up.moved + self.down.moved;
        let stall = self.stall.get_or_insert_with(|| {
            let since = Instant::now();
            Box::new(Stall { timer: Box::pin(sleep_until(since + STALL_CHECK)), moved, since, held: None })
        });
        // The timer is not reset while bytes move: a check that finds nothing is cheaper.
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
            let stalled = Stalled::of(&self.up, &self.down, near, far, now);
            if let Some(over) = stall.account(self.up.watch.budget(), stalled) {
                return Poll::Ready(over);
            }
            stall.timer.as_mut().reset(now + STALL_CHECK);
        }
        Poll::Pending
    }

    fn poll_hold<N: Duplex>(&mut self, cx: &mut Context<'_>, near: &N) -> Poll<()> {
        let Some(hold) = &mut self.hold else { return Poll::Ready(()) };
        if self.up.moved == 0 && !self.up.done && hold.poll(cx, near).is_pending() {
            return Poll::Pending;
        }
        self.hold = None;
        Poll::Ready(())
    }

    /// The direction `done`, out of `quiet`, is over; the direction `open`, out of `source`,
    /// is not. Ready when `quiet` has gone, so that nobody waits for the rest.
    fn poll_half<Q: Duplex, S: Duplex>(
        cx: &mut Context<'_>,
        done: &Direction<'_>,
        open: &mut Direction<'_>,
        quiet: &mut Q,
        by: Side,
        source: &mut S,
        timer: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<Ending> {
        loop {
            if open.left_since().is_none()
                && (done.end == Some(End::Closed) || quiet.poll_gone(cx).is_ready())
            {
                // At once: on some links the peer learns so that everything arrived.
                let _ = quiet.poll_finish(cx, End::Fin);
                if source.stop_receiving() {
                    return Poll::Ready(Ending::Left(by));
                }
                open.sink_left();
                *timer = None;
                // Polls `open` again, to discard what it holds.
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

#[cfg(test)]
mod tests;
