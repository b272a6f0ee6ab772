//! Waiting, always with a limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

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

/// As [`wait_for`], with a limit that the test checks.
pub async fn wait_within<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    let mut last = "nothing yet".to_owned();
    loop {
        match timeout_at(deadline, look()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(state)) => last = state,
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}; at last: {last}");
        sleep(LOOK).await;
    }
}

/// Bounds a single operation, such as a read or a dial.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not done after {LIMIT:?}"))
}
