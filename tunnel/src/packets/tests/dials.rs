//! Dials in both directions.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_peers_words_for_a_failed_dial_are_kept() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let refuse = async {
        let Packet::DialRequest { random, protocol, address } = peer.hear().await else { panic!() };
        assert_eq!((protocol.as_str(), address.as_str()), ("tcp", "10.0.0.1:80"));
        assert!(random >= 0);
        peer.say(&Packet::DialResponse { error: "connection refused".into(), connect_id: 0, random });
    };
    let (dialled, ()) = tokio::join!(mux.dial("10.0.0.1:80".to_owned(), None), refuse);
    assert_eq!(dialled.unwrap_err(), DialFailure::Refused(Refusal::from_go("connection refused".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_given_up_is_taken_back_and_a_late_answer_closed() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let given_up = timeout(Duration::from_secs(1), mux.dial("10.0.0.1:80".to_owned(), None)).await;
    assert!(given_up.is_err());
    let Packet::DialRequest { random, .. } = peer.hear().await else { panic!() };
    assert_eq!(peer.hear().await, Packet::CloseDial { random });
    peer.say(&Packet::DialResponse { error: String::new(), connect_id: 3, random });
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 3 });
}

/// The dialler may then ask another peer: this one never hears of it.
#[tokio::test(start_paused = true)]
async fn a_dial_that_a_peer_does_not_read_is_taken_back_unsaid() {
    let (mux, _, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    let block: &[u8] = &[0x55; 64 * 1024];
    while let Ok(written) = timeout(Duration::from_secs(2), write(&mut member, block)).await {
        written.unwrap();
    }
    assert!(mux.is_stuck());
    let limit = Duration::from_secs(2);
    let untaken = mux.dial("10.0.0.2:80".to_owned(), Some(limit)).await;
    assert_eq!(untaken.unwrap_err(), DialFailure::Busy);
    // Nor is one spoken of that was given up before it could leave.
    let given_up = timeout(limit, mux.dial("10.0.0.2:80".to_owned(), None)).await;
    assert!(given_up.is_err());
    while let Ok(packet) = timeout(Duration::from_secs(1), peer.hear()).await {
        assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
    }
    assert!(!mux.is_stuck());
    let dial = mux.dial("10.0.0.2:80".to_owned(), Some(limit));
    let (second, ()) = tokio::join!(dial, peer.accept(2));
    second.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_id_in_use_is_a_bad_answer_and_harms_nobody() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut first = dialled(&mux, &mut peer, 1).await;
    let (second, ()) = tokio::join!(mux.dial("10.0.0.2:80".to_owned(), None), peer.accept(1));
    assert!(matches!(second, Err(DialFailure::BadAnswer(_))), "{second:?}");
    peer.data(1, "for the first");
    assert_eq!(read(&mut first).await.unwrap().as_deref(), Some("for the first"));
}

#[tokio::test(start_paused = true)]
async fn an_agents_answers_are_those_of_konnectivitys() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.data(5, "nobody");
    assert_eq!(peer.hear().await, closed(5, "unrecognized connectID"));
    peer.say(&Packet::CloseRequest { connect_id: 5 });
    assert_eq!(peer.hear().await, closed(5, "Unknown connectID"));
    peer.data(0, "no connection at all");
    peer.say(&Packet::Unknown(77));
    peer.say(&Packet::CloseDial { random: 4 });
    let dial = |random| Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random };
    peer.say(&dial(11));
    asked.recv().await.unwrap().refuse("dial tcp: no".to_owned());
    let refused = Packet::DialResponse { error: "dial tcp: no".into(), connect_id: 0, random: 11 };
    assert_eq!(peer.hear().await, refused);
    peer.say(&dial(12));
    let mut member = asked.recv().await.unwrap().accept();
    let connected = Packet::DialResponse { error: String::new(), connect_id: 2, random: 12 };
    assert_eq!(peer.hear().await, connected, "failed dials count");
    write(&mut member, b"bye").await.unwrap();
    poll_fn(|cx| member.poll_finish(cx, End::Fin)).await.unwrap();
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 2, data: Bytes::from_static(b"bye") });
    assert_eq!(peer.hear().await, closed(2, ""));
    peer.data(2, "too late");
    assert_eq!(peer.hear().await, closed(2, "unrecognized connectID"));
}

#[tokio::test(start_paused = true)]
async fn a_dial_taken_back_by_the_peer_is_not_answered() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 9 });
    let dial = asked.recv().await.unwrap();
    peer.say(&Packet::CloseDial { random: 9 });
    timeout(Duration::from_secs(5), dial.cancelled()).await.unwrap();
    drop(dial);
    peer.hear_nothing(Duration::from_secs(20)).await;
}
