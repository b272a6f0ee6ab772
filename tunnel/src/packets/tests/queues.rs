//! Queues: overflow, slow readers, turns.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_connection_that_overflows_is_closed_alone() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = dialled(&mux, &mut peer, 1).await;
    let mut other = dialled(&mux, &mut peer, 2).await;
    for _ in 0..40 {
        peer.data(1, vec![b'x'; 32 * 1024]);
    }
    peer.data(2, "not held up");
    assert_eq!(read(&mut other).await.unwrap().as_deref(), Some("not held up"));
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 1 });
    let why = read(&mut slow).await.unwrap_err();
    assert!(matches!(why, Broken::Overflow { .. }), "{why}");
    // Bytes on their way are dropped without a word.
    peer.data(1, "late");
    peer.say(&closed(1, ""));
    drop(slow);
    peer.hear_nothing(Duration::from_secs(20)).await;
    assert_eq!(mux.state.backlog.bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_only_slow_gets_everything_and_others_are_hardly_delayed() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = dialled(&mux, &mut peer, 1).await;
    let mut other = dialled(&mux, &mut peer, 2).await;
    let sending = async {
        for turn in 0..400 {
            poll_fn(|cx| {
                peer.send.reserve_capacity(64 * 1024);
                if peer.send.capacity() < 64 * 1024 {
                    peer.send.poll_capacity(cx).map(drop)
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            peer.data(1, vec![b'x'; 32 * 1024]);
            if turn % 10 == 0 {
                peer.data(2, "in between");
            }
        }
        peer.say(&closed(1, ""));
    };
    // 2.5 MB/s, of a sender without any limit of its own.
    let reading = async {
        let (mut all, mut batch) = (0, Batch::default());
        while let Flow::More = poll_fn(|cx| slow.poll_recv(cx, &mut batch)).await.unwrap() {
            all += batch.clear();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        all
    };
    let others = async {
        let mut longest = Duration::ZERO;
        for _ in 0..30 {
            let asked = Instant::now();
            read(&mut other).await.unwrap();
            longest = longest.max(asked.elapsed());
        }
        longest
    };
    let ((), all, longest) = tokio::join!(sending, reading, others);
    assert_eq!(all, 400 * 32 * 1024);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn many_connections_that_do_not_read_share_one_bound() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = Vec::new();
    for id in 1..=8 {
        slow.push(dialled(&mux, &mut peer, id).await);
    }
    for _ in 0..30 {
        for id in 1..=8 {
            peer.data(id, vec![b'x'; 32 * 1024]);
        }
    }
    // At 4 MiB for all of them somebody has to go, and the bound holds.
    assert!(matches!(peer.hear().await, Packet::CloseRequest { .. }));
    assert!(mux.state.backlog.bytes() <= LIMITS.stream);
}

#[tokio::test(start_paused = true)]
async fn small_packets_that_wait_are_copied_together() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    for _ in 0..1000 {
        peer.data(1, "tick ");
    }
    peer.data(1, vec![b'x'; 5000]);
    peer.data(1, "end");
    // Once this is answered, everything before it has been received.
    peer.data(99, "unknown");
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 99 });
    let mut batch = Batch::default();
    poll_fn(|cx| member.poll_recv(cx, &mut batch)).await.unwrap();
    assert_eq!((batch.len(), batch.iter().count() <= 4), (5000 + 5000 + 3, true));
}

#[tokio::test(start_paused = true)]
async fn control_goes_ahead_of_data_and_connections_take_turns() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut first = dialled(&mux, &mut peer, 1).await;
    let mut second = dialled(&mux, &mut peer, 2).await;
    static LONG: [u8; 60 * 1024] = [1; 60 * 1024];
    // No other task runs between these, so the driver finds all of them.
    write(&mut first, &LONG).await.unwrap();
    write(&mut second, b"short").await.unwrap();
    mux.say_drain();
    assert_eq!(peer.hear().await, Packet::Drain);
    let order: Vec<i64> = [peer.hear().await, peer.hear().await, peer.hear().await]
        .iter()
        .map(|packet| if let Packet::Data { connect_id, .. } = packet { *connect_id } else { -1 })
        .collect();
    assert_eq!(order, [1, 2, 1]);
}
