//! Waiting, always with a limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Limit of every wait. Longer than any step takes on a busy machine; a shorter limit
/// fails tests there, a longer one only delays a failure.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Time between two checks of a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` returns `Ok`. Its `Err` is the state so far; the last one is
/// printed when the time is over.
pub async fn wait_for<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    wait_within(LIMIT, what, look).await
}

/// As [`wait_for`], with a limit that the test checks, as [`promptly`] counts it.
pub async fn wait_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let mut last = "nothing yet".to_owned();
    let looks = Box::pin(async {
        loop {
            match look().await {
                Ok(value) => return value,
                Err(state) => last = state,
            }
            sleep(LOOK).await;
        }
    });
    let found = promptly(limit, looks).await;
    found.unwrap_or_else(|| panic!("waited {limit:?} for {what}; at last: {last}"))
}

/// Bounds work by the time for which this process ran: `None` after `limit` of it. A machine that gives the
/// processor to others for seconds is not counted as slowness of the product.
pub async fn promptly<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let (mut work, mut spent) = (Box::pin(work), Duration::ZERO);
    while spent < limit {
        let began = Instant::now();
        if let Ok(done) = timeout(LOOK, work.as_mut()).await {
            return Some(done);
        }
        spent += began.elapsed().min(2 * LOOK);
    }
    None
}

/// Bounds a single operation, such as a read or a dial.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not done after {LIMIT:?}"))
}
