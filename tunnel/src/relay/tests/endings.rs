//! Ends, half-closes and failures.

use super::*;

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
async fn a_client_that_closed_does_not_miss_what_a_target_says_to_that() {
    // A kube-apiserver that closes TLS, and the close_notify of the kubelet's TLS within.
    let near = Scripted::new([Step::Data("bye"), FIN]);
    let far = Scripted::new([]);
    let relaying = start(&near, &far, None);
    settle().await;
    near.with(|s| s.send_error = Some(Broken::Stopped));
    far.with(|s| s.steps.extend([Step::Data("close_notify"), FIN]));
    let (ending, _) = relaying.await.unwrap();
    assert_eq!((ending.label(), ending), ("clean", Ending::Left(Side::Near)));
    assert_eq!(far.sent(), "bye");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_target_does_not_take_any_more_are_lost() {
    let near = Scripted::new([Step::Data("upload"), FIN]);
    let far = Scripted::new([Step::Data("200"), FIN]);
    far.with(|s| s.send_error = Some(Broken::Stopped));
    let (ending, _) = start(&near, &far, None).await.unwrap();
    assert_eq!(ending, Ending::Broken { side: Side::Far, why: Broken::Stopped });
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
async fn a_target_that_speaks_first_waits_for_a_client_that_can_be_seen_to_read() {
    let blind = Duration::from_millis(50);
    for late in [Duration::ZERO, Duration::from_millis(20), Duration::from_secs(3)] {
        let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("banner")]));
        near.with(|s| s.has_read = Some(false));
        let _relaying = start(&near, &far, Some(blind));
        settle().await;
        advance(late).await;
        settle().await;
        assert_eq!(near.sent(), "", "{late:?}");
        // Nothing wakes for it.
        near.0.lock().unwrap().has_read = Some(true);
        advance((late / 4).clamp(Duration::from_millis(2), Duration::from_millis(51))).await;
        settle().await;
        assert_eq!(near.sent(), "banner", "{late:?}");
    }
    let (near, far) = (Scripted::new([]), Scripted::new([Step::Data("banner")]));
    near.with(|s| s.has_read = Some(false));
    let _relaying = start(&near, &far, Some(blind));
    settle().await;
    advance(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(near.sent(), "banner", "a client that never reads");
}
