//! Sinks that take nothing: waits, stalls, the budget, sources that leave meanwhile.

use super::*;

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
    advance(STALL + STALL_CHECK).await;
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
    let ((old, near), far_later) = (start(), STALL_CHECK * 3);
    settle().await;
    advance(far_later).await;
    settle().await;
    let ((new, newer), (moves, mover)) = (start(), start());
    settle().await;
    for _ in 0..4 {
        assert!(!old.is_finished(), "eight bytes may wait");
        advance(STALL_CHECK / 4).await;
        // One that moves now and then is no matter.
        mover.with(|s| s.room = s.room.map(|room| room + 1));
        settle().await;
    }
    advance(STALL_CHECK).await;
    settle().await;
    assert!(!new.is_finished() && !moves.is_finished());
    let another = start();
    settle().await;
    for _ in 0..2 {
        advance(STALL_CHECK).await;
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
        advance(STALL_CHECK / 2).await;
        settle().await;
    }
    meter.down.budget.set_limit(3);
    ping();
    advance(STALL_CHECK).await;
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
