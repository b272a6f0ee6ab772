//! The wait of a target's first bytes for the client, which may not read them together with the answer to
//! its request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::duplex::Duplex;

/// First time between two looks at a client that can be seen to read; each is a quarter of the wait so far,
/// up to [`SLOWEST_LOOK`]. Less are system calls for clients that speak at once, which most do; more delays
/// targets that speak first.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

/// Longest wait for a client that is seen not to have read. With less, a kube-apiserver on a machine that
/// stands still fails the connection; more keeps the bytes of targets from clients that read nothing.
const LATEST: Duration = Duration::from_secs(10);

/// Until the client has read the answer, or, if that cannot be known, for a time.
pub(super) struct Hold {
    began: Instant,
    /// The time for a client of which nothing can be known.
    blind: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Hold {
    pub(super) fn new(blind: Duration) -> Self {
        let began = Instant::now();
        Self { began, blind, timer: Box::pin(sleep_until(began + FIRST_LOOK.min(blind))) }
    }

    pub(super) fn poll<N: Duplex>(&mut self, cx: &mut Context<'_>, near: &N) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let waited = self.began.elapsed();
            let (longest, next) = match near.has_read() {
                Some(true) => return Poll::Ready(()),
                Some(false) => (LATEST, waited + (waited / 4).clamp(FIRST_LOOK, SLOWEST_LOOK)),
                None => (self.blind, self.blind),
            };
            if waited >= longest {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(self.began + next);
        }
    }
}
