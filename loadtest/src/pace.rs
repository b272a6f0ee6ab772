//! Timers with a resolution of a tenth of a millisecond on an idle machine.
//!
//! The runtime's timers count milliseconds, which is longer than most latencies here. So one thread keeps all
//! moments, and wakes the tasks that wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The process's one pacer: its thread lives as long as the process.
static PACER: LazyLock<Arc<Pacer>> = LazyLock::new(Pacer::start);

/// Waits for a moment; yields once if it has passed. Cancel safe.
pub(crate) async fn until(at: Instant) {
    if at <= Instant::now() {
        return yield_now().await;
    }
    let woken = PACER.add(at);
    // Fails only if the thread has died.
    let _ = woken.await;
}

/// The moments that tasks wait for; the number keeps equal ones apart.
type Moments = BTreeMap<(Instant, u64), oneshot::Sender<()>>;

#[derive(Default)]
struct Pacer {
    waiting: Mutex<(Moments, u64)>,
    earlier: Condvar,
}

impl Pacer {
    fn start() -> Arc<Self> {
        let pacer = Arc::new(Self::default());
        let keeper = Arc::clone(&pacer);
        std::thread::spawn(move || keeper.keep());
        pacer
    }

    /// Bounded by the number of tasks: one entry for each that waits.
    fn add(&self, at: Instant) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = waiting.0.first_key_value().is_none_or(|((first, _), _)| at < *first);
        waiting.1 += 1;
        let key = (at, waiting.1);
        waiting.0.insert(key, wake);
        drop(waiting);
        if is_first {
            self.earlier.notify_one();
        }
        woken
    }

    fn keep(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let now = Instant::now();
            while let Some(entry) = waiting.0.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                // Fails when its task has stopped waiting.
                let _ = entry.remove().send(());
            }
            let next = waiting.0.first_key_value().map(|((at, _), _)| at.saturating_duration_since(now));
            waiting = match next {
                Some(time) => {
                    self.earlier.wait_timeout(waiting, time).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.earlier.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn everybody_wakes_in_order_and_not_too_early() {
        // A task that comes after its moment does not wait, so all come well before.
        let start = Instant::now() + Duration::from_millis(500);
        let mut tasks = JoinSet::new();
        for number in [3u32, 1, 2, 0, 2] {
            let at = start + Duration::from_millis(20) * number;
            tasks.spawn(async move {
                until(at).await;
                assert!(Instant::now() >= at);
                number
            });
        }
        let mut order = Vec::new();
        while let Some(number) = tasks.join_next().await {
            order.push(number.unwrap());
        }
        assert_eq!(order, [0, 1, 2, 2, 3]);
    }

    #[tokio::test]
    async fn who_stops_waiting_is_forgotten() {
        let start = Instant::now();
        drop(PACER.add(start + Duration::from_millis(1)));
        until(start + Duration::from_millis(2)).await;
        assert!(Instant::now() >= start + Duration::from_millis(2));
    }
}
