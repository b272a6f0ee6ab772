//! Waiting, always with a limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Longer than anything takes that works, on a machine that has other things to do.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` gives a value. Until then it gives the state that it
/// found, of which the last one is printed when the time is over.
pub async fn wait_for<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    wait_within(LIMIT, what, look).await
}

/// As [`wait_for`], with a limit that is part of what is tested.
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

/// Bounds something that is not a condition: a read, a dial.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not done after {LIMIT:?}"))
}
