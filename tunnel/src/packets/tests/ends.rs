//! How connections and streams end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_dialled_connection_carries_bytes_both_ways_until_the_peer_closes() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 7).await;
    write(&mut member, b"question").await.unwrap();
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 7, data: Bytes::from_static(b"question") });
    peer.data(7, "answer");
    peer.say(&closed(7, ""));
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("answer"));
    assert_eq!(read(&mut member).await, Ok(None));
    assert_eq!(write(&mut member, b"more").await, Err(Broken::Stopped));
    drop(member);
    peer.hear_nothing(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn closing_waits_a_moment_after_data_and_longer_after_a_half_close() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    write(&mut member, b"last words").await.unwrap();
    peer.hear().await;
    let sent = Instant::now();
    poll_fn(|cx| member.poll_finish(cx, End::Closed)).await.unwrap();
    drop(member);
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 1 });
    let waited = sent.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(1)).contains(&waited), "{waited:?}");

    let mut member = dialled(&mux, &mut peer, 2).await;
    poll_fn(|cx| member.poll_finish(cx, End::Fin)).await.unwrap();
    for _ in 0..3 {
        peer.hear_nothing(Duration::from_secs(4)).await;
        peer.data(2, "still answering");
        assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("still answering"));
    }
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 2 });
}

#[tokio::test(start_paused = true)]
async fn a_close_request_is_answered_after_the_data_and_what_came_before_it_is_read() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 1 });
    let mut member = asked.recv().await.unwrap().accept();
    peer.hear().await;
    peer.data(1, "the last of it");
    write(&mut member, b"queued").await.unwrap();
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 1, data: Bytes::from_static(b"queued") });
    assert_eq!(peer.hear().await, closed(1, ""));
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("the last of it"));
    assert_eq!(read(&mut member).await, Ok(None));
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    assert_eq!(peer.hear().await, closed(1, "Unknown connectID"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_is_the_end_of_everything_on_it() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    let dialling = mux.dial("10.0.0.2:80".to_owned(), None);
    let end = async {
        peer.hear().await;
        peer.send.send_data(Bytes::new(), true).unwrap();
        mux.closed().await
    };
    let (failed, why) = tokio::join!(dialling, end);
    assert_eq!(why, "the peer ended the call");
    assert_eq!(failed.unwrap_err(), DialFailure::Lost(why.clone()));
    assert_eq!(read(&mut member).await, Err(Broken::Lost(why.clone())));
    assert_eq!(mux.dial("10.0.0.3:80".to_owned(), None).await.unwrap_err(), DialFailure::Lost(why));
    peer.drain.kill();
}

#[tokio::test(start_paused = true)]
async fn bad_packets_are_skipped_until_there_are_too_many() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    // A data packet without a payload, which crashes others.
    let empty = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 4]);
    peer.send.send_data(empty.clone(), false).unwrap();
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    peer.data(1, "unharmed");
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("unharmed"));
    for _ in 0..64 {
        peer.send.send_data(empty.clone(), false).unwrap();
    }
    assert!(mux.closed().await.starts_with("too many bad packets"));
}

#[tokio::test(start_paused = true)]
async fn a_reset_connection_is_closed_with_a_reason_by_agents() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 1 });
    let mut member = asked.recv().await.unwrap().accept();
    peer.hear().await;
    member.abort(Abort::AfterData);
    assert_eq!(peer.hear().await, closed(1, "connection reset by peer"));
}
