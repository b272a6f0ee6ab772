//! The relay against scripted ends, in virtual time.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::Waker;

use bytes::Bytes;
use tokio::time::advance;

use super::*;

/// What an end does when it is received from.
#[derive(Debug, Clone)]
enum Step {
    Data(&'static str),
    End(End),
    Fail(Broken),
}

/// What happened to an end.
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

#[tokio::test(start_paused = true)]
async fn both_directions_end_on_their_own() {
    let near = Scripted::new([Step::Data("question"), FIN]);
    let far = Scripted::new([]);
    let relaying = start(&near, &far, None);
    settle().await;
    assert_eq!((far.sent().as_str(), far.with(|s| s.seen.finished)), ("question", Some(End::Fin)));
    assert!(!relaying.is_finished(), "the answer is still to come");
    // Hours later: a half-closed connection is not a dead one.
    advance(Duration::from_secs(10_000)).await;
    far.with(|s| s.steps.extend([Step::Data("answer"), FIN]));
    let (ending, moved) = relaying.await.unwrap();
    assert_eq!((ending, moved), (Ending::Clean, Moved { up: 8, down: 6 }));
    assert_eq!((near.sent().as_str(), near.with(|s| s.seen.finished)), ("answer", Some(End::Fin)));
    assert_eq!(far.with(|s| s.seen.consumed), 6);
}

#[tokio::test(start_paused = true)]
async fn bytes_before_a_failure_are_delivered_and_the_other_end_is_told_after_them() {
    let near = Scripted::new([]);
    near.with(|s| s.room = Some(3));
    let far = Scripted::new([Step::Data("abcdef"), Step::Fail(Broken::Reset)]);
    let relaying = start(&near, &far, None);
    settle().await;
    assert!(!relaying.is_finished(), "three bytes are not delivered yet");
    near.with(|s| s.room = None);
    let (ending, _) = relaying.await.unwrap();
    assert_eq!(ending, Ending::Broken { side: Side::Far, why: Broken::Reset });
    assert_eq!(near.sent(), "abcdef");
    assert_eq!(near.with(|s| s.seen.aborted), Some(Abort::AfterData));
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_fails_does_not_cut_what_its_end_said_before() {
    // A server that answers early and closes without reading the rest.
    let near = Scripted::new([Step::Data("upload")]);
    let far = Scripted::new([Step::Data("413 too large")]);
    far.with(|s| s.send_error = Some(Broken::Stopped));
    let relaying = start(&near, &far, None);
    settle().await;
    assert_eq!(near.sent(), "413 too large");
    assert!(!relaying.is_finished());
    far.with(|s| s.steps.push_back(Step::Fail(Broken::Reset)));
    let (ending, _) = relaying.await.unwrap();
    assert_eq!(ending, Ending::Broken { side: Side::Far, why: Broken::Reset });
    assert_eq!(near.with(|s| s.seen.consumed), 6, "discarded bytes are given back as window");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_stops_a_stream_at_once() {
    let near = Scripted::new([Step::Data("bye"), CLOSED]);
    let far = Scripted::new([]);
    far.with(|s| s.can_stop = true);
    let (ending, _) = start(&near, &far, None).await.unwrap();
    assert_eq!(ending, Ending::Left(Side::Near));
    assert_eq!((far.sent().as_str(), far.with(|s| s.seen.finished)), ("bye", Some(End::Closed)));
    assert!(far.with(|s| s.seen.stopped));
}

#[tokio::test(start_paused = true)]
async fn a_target_is_given_time_to_read_what_a_client_that_left_has_sent() {
    let near = Scripted::new([Step::Data("write then close"), CLOSED]);
    let far = Scripted::new([Step::Data("unwanted")]);
    let relaying = start(&near, &far, None);
    advance(LINGER - Duration::from_secs(1)).await;
    settle().await;
    assert!(!relaying.is_finished());
    assert_eq!(far.with(|s| s.seen.aborted), None);
    far.with(|s| s.steps.push_back(FIN));
    assert_eq!(relaying.await.unwrap().0, Ending::Clean);
}

#[tokio::test(start_paused = true)]
async fn but_not_for_ever() {
    let near = Scripted::new([CLOSED]);
    let far = Scripted::new([]);
    let relaying = start(&near, &far, None);
    settle().await;
    advance(LINGER + Duration::from_secs(1)).await;
    assert_eq!(relaying.await.unwrap().0, Ending::Lingered(Side::Near));
    assert_eq!(far.with(|s| s.seen.aborted), Some(Abort::Now));
}

#[tokio::test(start_paused = true)]
async fn nor_for_any_amount() {
    let near = Scripted::new([CLOSED]);
    let far =
        Scripted::new(std::iter::repeat_n(Step::Data("0123456789abcdef"), (LINGER_BYTES / 16) as usize + 10));
    assert_eq!(start(&near, &far, None).await.unwrap().0, Ending::Lingered(Side::Near));
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_client_that_goes_away_later_is_noticed() {
    let near = Scripted::new([FIN]);
    let far = Scripted::new([]);
    far.with(|s| s.can_stop = true);
    let relaying = start(&near, &far, None);
    settle().await;
    // A socket cannot wake for it, so it is asked now and then.
    near.0.lock().unwrap().gone = true;
    advance(GONE_CHECK + Duration::from_millis(10)).await;
    assert_eq!(relaying.await.unwrap().0, Ending::Left(Side::Near));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_speaks_first_waits_for_the_client_or_the_hold() {
    let hold = Duration::from_millis(50);
    let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("banner")]));
    let _relaying = start(&near, &far, Some(hold));
    settle().await;
    assert_eq!(near.sent(), "");
    advance(hold + Duration::from_millis(1)).await;
    settle().await;
    assert_eq!(near.sent(), "banner");

    let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("banner")]));
    let _relaying = start(&near, &far, Some(hold));
    settle().await;
    near.with(|s| s.steps.push_back(Step::Data("hello")));
    settle().await;
    assert_eq!(near.sent(), "banner", "the client has spoken");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_direction_does_not_stall_the_other() {
    let near = Scripted::new([Step::Data("up")]);
    near.with(|s| s.room = Some(0));
    let far = Scripted::new([Step::Data("down")]);
    let relaying = start(&near, &far, None);
    settle().await;
    assert_eq!((near.sent().as_str(), far.sent().as_str()), ("", "up"));
    near.with(|s| s.steps.push_back(Step::Data(" and up")));
    settle().await;
    assert_eq!(far.sent(), "up and up");
    assert_eq!(far.with(|s| s.seen.consumed), 0, "no window for bytes that are not delivered");
    relaying.abort();
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_takes_nothing_is_waited_for_and_then_stalled() {
    let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("abcdef")]));
    near.with(|s| s.room = Some(2));
    let (meter, up, down) = metered();
    let relaying = start_metered(&near, &far, None, meter.clone());
    settle().await;
    assert_eq!(down.get(), (2, 1, 0, 0, 0, 0));
    advance(STALL - Duration::from_secs(1)).await;
    settle().await;
    assert_eq!(down.get(), (2, 1, 0, 0, 0, 0), "not for so long yet");
    // Any byte begins a new wait.
    near.with(|s| s.room = Some(4));
    settle().await;
    assert_eq!(down.get(), (4, 1, 1, 9, 0, 0));
    advance(Duration::from_secs(2)).await;
    settle().await;
    assert_eq!(down.get(), (4, 1, 1, 9, 0, 0), "the time of the first wait is over, not of the second");
    advance(STALL + STALLED).await;
    settle().await;
    assert_eq!(down.get(), (4, 1, 1, 9, 1, 1));
    advance(STALL * 10).await;
    settle().await;
    assert_eq!(down.get(), (4, 1, 1, 9, 1, 1), "one stall");
    near.with(|s| s.room = None);
    settle().await;
    assert_eq!(down.get(), (6, 0, 2, 9 + 117, 0, 1));
    assert_eq!(up.get(), (0, 0, 0, 0, 0, 0), "the other direction did not wait");
    relaying.abort();
}

#[tokio::test(start_paused = true)]
async fn the_connection_that_has_stood_still_for_the_longest_goes_when_too_much_is_kept() {
    let meter = Arc::<Meter>::default();
    meter.down.budget.set_limit(10);
    let start = || {
        let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("abcdef")]));
        near.with(|s| s.room = Some(2));
        (start_metered(&near, &far, None, meter.clone()), near)
    };
    let ((old, near), far_later) = (start(), STALLED * 3);
    settle().await;
    advance(far_later).await;
    settle().await;
    let ((new, newer), (moves, mover)) = (start(), start());
    settle().await;
    for _ in 0..4 {
        assert!(!old.is_finished(), "eight bytes may wait");
        advance(STALLED / 4).await;
        // One that moves now and then is no matter.
        mover.with(|s| s.room = s.room.map(|room| room + 1));
        settle().await;
    }
    advance(STALLED).await;
    settle().await;
    assert!(!new.is_finished() && !moves.is_finished());
    let another = start();
    settle().await;
    for _ in 0..2 {
        advance(STALLED).await;
        settle().await;
    }
    let (ending, moved) = old.await.unwrap();
    let why = Broken::Overflow { waiting: 4 };
    assert_eq!((ending, moved.down), (Ending::Broken { side: Side::Far, why }, 2));
    assert_eq!(near.with(|s| s.seen.aborted), Some(Abort::Now));
    assert!(!new.is_finished() && !another.0.is_finished());
    newer.with(|s| s.room = None);
    settle().await;
    assert_eq!(newer.sent(), "abcdef", "it was only late");
    new.abort();
    moves.abort();
    another.0.abort();
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_is_counted_whatever_it_says_meanwhile() {
    let meter = Arc::<Meter>::default();
    meter.down.budget.set_limit(5);
    let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("abcdef")]));
    near.with(|s| s.room = Some(2));
    let relaying = start_metered(&near, &far, None, meter.clone());
    let ping = || near.with(|s| s.steps.push_back(Step::Data("ping")));
    settle().await;
    for _ in 0..4 {
        ping();
        settle().await;
        assert!(!relaying.is_finished(), "four bytes may wait");
        advance(STALLED / 2).await;
        settle().await;
    }
    meter.down.budget.set_limit(3);
    ping();
    advance(STALLED).await;
    settle().await;
    let (ending, moved) = relaying.await.unwrap();
    let why = Broken::Overflow { waiting: 4 };
    assert_eq!((ending, moved), (Ending::Broken { side: Side::Far, why }, Moved { up: 20, down: 2 }));
}

#[tokio::test(start_paused = true)]
async fn what_waits_or_stalls_ends_with_its_connection() {
    let (near, far) = (Scripted::new([Step::Data("up")]), Scripted::new([Step::Data("down")]));
    for end in [&near, &far] {
        end.with(|s| s.room = Some(0));
    }
    let (meter, up, down) = metered();
    let relaying = start_metered(&near, &far, None, meter.clone());
    settle().await;
    advance(STALL * 2).await;
    settle().await;
    for lane in [&up, &down] {
        assert_eq!(lane.get(), (0, 1, 0, 0, 1, 1));
    }
    relaying.abort();
    assert!(relaying.await.is_err_and(|error| error.is_cancelled()));
    for lane in [&up, &down] {
        assert_eq!(lane.get(), (0, 0, 1, 20, 0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_is_given_up_is_not_waited_for() {
    let (near, far) = (Scripted::new([Step::Data("up")]), Scripted::new([]));
    far.with(|s| s.room = Some(0));
    let (meter, up, _) = metered();
    let relaying = start_metered(&near, &far, None, meter.clone());
    settle().await;
    assert_eq!(up.get().1, 1);
    far.with(|s| s.send_error = Some(Broken::Stopped));
    settle().await;
    assert_eq!(up.get(), (0, 0, 1, 0, 0, 0));
    relaying.abort();
}

#[test]
fn a_relay_costs_an_idle_connection_little() {
    let size = size_of::<Relay<'_>>();
    assert!(size <= 320, "the state of a relay has grown to {size} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_goes_away_is_noticed_while_its_sink_takes_nothing() {
    let near = Scripted::new([Step::Data("upload")]);
    let far = Scripted::new([]);
    far.with(|s| s.room = Some(3));
    let relaying = start(&near, &far, None);
    advance(Duration::from_secs(100)).await;
    assert!(!relaying.is_finished(), "a target may take its time");
    near.with(|s| s.steps.push_back(Step::Fail(Broken::Reset)));
    let (ending, moved) = relaying.await.unwrap();
    assert_eq!(ending, Ending::Broken { side: Side::Near, why: Broken::Reset });
    assert_eq!((moved.up, far.with(|s| s.seen.aborted)), (3, Some(Abort::AfterData)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_gone_is_waited_for_a_minute_by_a_target_that_takes_nothing() {
    let near = Scripted::new([Step::Data("upload")]);
    let far = Scripted::new([]);
    far.with(|s| s.room = Some(3));
    near.with(|s| s.gone = true);
    let relaying = start(&near, &far, None);
    let pass = async |seconds: u64| {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            settle().await;
        }
    };
    pass(50).await;
    far.with(|s| s.room = Some(4));
    pass(60).await;
    assert!(!relaying.is_finished(), "the target took something a minute ago");
    pass(10).await;
    let (ending, moved) = relaying.await.unwrap();
    assert_eq!((ending, moved.up), (Ending::Lingered(Side::Near), 4));
    assert_eq!(
        (near.with(|s| s.seen.aborted), far.with(|s| s.seen.aborted)),
        (Some(Abort::Now), Some(Abort::Now))
    );
}
