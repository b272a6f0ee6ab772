//! A bounded queue between the program and the reader of its log.
//!
//! A reader that stalls does not stop the program: lines that find the queue full are dropped and
//! counted. A thread writes the rest.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, Opts, Registry};
use tokio::time::Instant;

/// Bytes that wait for the reader. Fewer lose lines of a burst; more is memory while a reader stalls.
const ROOM: usize = 1 << 20;

/// Time for the last lines at the end of the program. Less loses them on busy disks; more delays an end
/// whose reader has stalled.
const FLUSH: Duration = Duration::from_secs(1);

/// Dropped lines of all queues: there is one log in a process.
static DROPPED: LazyLock<Option<IntCounter>> = LazyLock::new(|| {
    let help = "Lines of the log that were dropped, because its reader takes none or its disk is full.";
    IntCounter::with_opts(Opts::new("tunnel_log_lines_dropped_total", help)).ok()
});

/// Registers the count of dropped lines.
///
/// # Errors
/// When the registry has the metric already.
pub(crate) fn count_dropped(registry: &Registry) -> prometheus::Result<()> {
    DROPPED.iter().try_for_each(|dropped| registry.register(Box::new(dropped.clone())))
}

/// The end of a queue to which lines are written. Clones write to the same queue.
#[derive(Debug, Clone)]
pub(crate) struct LogQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when a line comes, and when the queue is closed.
    filled: Condvar,
    /// Told when all lines are written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines are being written.
    writing: bool,
    closed: bool,
}

/// Writes the last lines of its queues when it is dropped, within a second for each.
#[derive(Debug, Default)]
#[must_use = "the log ends when this is dropped"]
pub struct Flush(Vec<LogQueue>);

impl LogQueue {
    /// Writes to `sink` from a thread, which ends when `flush` is dropped.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn new(mut sink: impl io::Write + Send + 'static, flush: &mut Flush) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let from = Arc::clone(&shared);
        let write = move || {
            while let Some(lines) = from.next() {
                for line in lines {
                    // There is no other place to report a failure to.
                    if sink.write_all(&line).is_err() {
                        DROPPED.iter().for_each(IntCounter::inc);
                    }
                }
            }
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(write)?;
        let queue = Self(shared);
        flush.0.push(queue.clone());
        Ok(queue)
    }

    fn close(&self) {
        let deadline = Instant::now() + FLUSH;
        let mut state = self.0.lock();
        state.closed = true;
        self.0.filled.notify_one();
        while state.writing || !state.lines.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            let waited = self.0.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// Waits for lines; `None` once there are no more to come.
    fn next(&self) -> Option<VecDeque<Box<[u8]>>> {
        let mut state = self.lock();
        state.writing = false;
        while state.lines.is_empty() {
            self.emptied.notify_all();
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.writing, state.bytes) = (true, 0);
        Some(std::mem::take(&mut state.lines))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for LogQueue {
    /// `line` is a whole line, as tracing-subscriber writes them.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.bytes + line.len() > ROOM {
            drop(state);
            DROPPED.iter().for_each(IntCounter::inc);
            return Ok(line.len());
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        self.0.filled.notify_one();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.0.iter().for_each(LogQueue::close);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_reader_that_stalls_stops_nobody_and_costs_lines() {
        let (sink, mut reader) = UnixStream::pair().unwrap();
        let mut flush = Flush::default();
        let mut queue = LogQueue::new(sink, &mut flush).unwrap();
        let dropped = || DROPPED.as_ref().map(IntCounter::get).unwrap();
        let before = dropped();
        let line = [b'x'; 1000];
        for _ in 0..20_000 {
            queue.write_all(&line).unwrap();
        }
        let lost = dropped() - before;
        assert!(lost > 10_000, "{lost}");
        let all = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all.len()
        });
        drop((flush, queue));
        let written = all.join().unwrap();
        assert_eq!(written % line.len(), 0, "whole lines");
        // Those of other tests' queues count, too.
        assert!(usize::try_from(lost).unwrap() >= 20_000 - written / line.len(), "{lost} {written}");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let mut flush = Flush::default();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut queue = LogQueue::new(full, &mut flush).unwrap();
        let dropped = || DROPPED.as_ref().map(IntCounter::get).unwrap();
        let before = dropped();
        (0..100).for_each(|number| writeln!(queue, "{number}").unwrap());
        drop(flush);
        // Those of other tests' queues count, too.
        assert!(dropped() - before >= 100);
    }

    #[test]
    fn lines_are_written_in_order_and_the_last_ones_at_the_end() {
        let (sink, mut reader) = UnixStream::pair().unwrap();
        let mut flush = Flush::default();
        let mut queue = LogQueue::new(sink, &mut flush).unwrap();
        for number in 0..100 {
            writeln!(queue, "{number}").unwrap();
        }
        drop(flush);
        drop(queue);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, (0..100).map(|number| format!("{number}\n")).collect::<String>());
    }

    #[test]
    fn a_reader_that_never_reads_delays_the_end_by_a_second() {
        let (sink, _reader) = UnixStream::pair().unwrap();
        let mut flush = Flush::default();
        let mut queue = LogQueue::new(sink, &mut flush).unwrap();
        (0..10_000).for_each(|_| queue.write_all(&[b'x'; 1000]).unwrap());
        let began = Instant::now();
        drop(flush);
        assert!(began.elapsed() >= FLUSH);
    }
}
