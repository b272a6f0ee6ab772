//! Tasks of tests.

use std::future::Future;

use tokio::task::{JoinHandle, JoinSet};

/// A task that is aborted when dropped, so that no task outlives its test.
#[derive(Debug)]
pub struct Task<T = ()>(JoinHandle<T>);

/// Starts a task.
#[expect(clippy::disallowed_methods, reason = "the task is tied to the value that is returned")]
pub fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
    Task(tokio::spawn(work))
}

impl<T> Task<T> {
    /// Waits for the result; a panic in the task goes on here.
    pub async fn join(mut self) -> T {
        match (&mut self.0).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does `work` with the numbers below `total`, with `at_once` of them under way
/// at any moment. The first panic ends it all.
pub async fn many<F>(total: u64, at_once: usize, work: impl Fn(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..total {
        if tasks.len() >= at_once {
            tasks.join_next().await.unwrap().unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        }
        tasks.spawn(work(number));
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}
