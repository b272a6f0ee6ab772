//! HTTP/2 that breaks its own rules.

use tokio::io::AsyncWriteExt as _;
use tunnel_proto::packet::Packet;
use tunnel_tests::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, call,
    frame, repeat,
};
use tunnel_tests::raw::{Listener, PREFACE};
use tunnel_tests::{payload, spawn, within};

use crate::{CLIENTS, DIALS, Siege, say, say_and_leave};

/// Any reason: the server may count the first frame as part of the handshake.
const ANY: (&str, &str) = (CLIENTS, "reason=");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_http2_is_cut() {
    let siege = Siege::begin().await;
    let cases = [
        ("garbage", payload::bytes(2, 4096)),
        ("broken HPACK", frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
        ("an index that is not there", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x7f])),
        ("an oversized frame", frame(DATA, 0, 1, &vec![0; 1 << 20])),
        ("headers on stream 0", frame(HEADERS, END_HEADERS, 0, &call())),
        ("data on an idle stream", frame(DATA, 0, 1, b"hello")),
        ("a server's stream", frame(HEADERS, END_HEADERS, 2, &call())),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes())),
        (
            "another frame between headers",
            [frame(HEADERS, 0, 1, &call()), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "headers without end",
            [frame(HEADERS, 0, 1, &call()), repeat(1_000, |_| frame(CONTINUATION, 0, 1, &[0x10; 4_000]))]
                .concat(),
        ),
        ("headers of a megabyte", {
            let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7c][..], &[b'v'; 16_000]].concat();
            [frame(HEADERS, 0, 1, &call()), repeat(70, |_| frame(CONTINUATION, 0, 1, &field))].concat()
        }),
    ];
    for listener in Listener::BOTH {
        for (what, bytes) in &cases {
            println!("{what} on {listener:?}");
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            siege.attack(what, ANY, say(io, &[PREFACE, bytes].concat())).await;
        }
    }
    siege.end().await;
}

/// Floods of frames that a server has to answer. It must neither end nor collect
/// unread answers, and other clients must not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_frames_is_nobody_elses_trouble() {
    let siege = Siege::begin().await;
    let floods = [
        ("settings", repeat(50_000, |_| frame(SETTINGS, 0, 0, &[]))),
        ("pings", repeat(50_000, |_| frame(PING, 0, 0, &[7; 8]))),
        (
            "empty data",
            [frame(HEADERS, END_HEADERS, 1, &call()), repeat(50_000, |_| frame(DATA, 0, 1, &[]))].concat(),
        ),
    ];
    for listener in Listener::BOTH {
        for (what, bytes) in &floods {
            println!("{what} on {listener:?}");
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            // Ended by the server or by us; both are allowed.
            let flood = tokio::time::timeout(std::time::Duration::from_secs(3), async {
                let (mut from, mut to) = tokio::io::split(io);
                let send = async {
                    let _ = to.write_all(&[PREFACE, bytes].concat()).await;
                    let _ = to.shutdown().await;
                };
                tokio::join!(send, tunnel_tests::raw::read_to_any_end(&mut from));
            });
            let _ = flood.await;
            siege.canaries_sing().await;
        }
    }
    siege.end().await;
}

/// Rapid reset, CVE-2023-44487.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_are_counted_and_harm_nobody() {
    let siege = Siege::begin().await;
    let resets = repeat(20_000, |n| {
        let stream = 2 * n + 1;
        let cancel = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        [frame(HEADERS, END_HEADERS, stream, &call()), cancel].concat()
    });
    for listener in Listener::BOTH {
        let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
        siege.attack("rapid resets", ANY, say(io, &[PREFACE, &resets].concat())).await;
    }
    siege.end().await;
}

/// A good call before the violation does not excuse it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_http2_between_its_calls_is_counted_too() {
    let siege = Siege::begin().await;
    let nonsense = Packet::DialRequest { protocol: "udp".to_owned(), address: String::new(), random: 1 };
    let one_call =
        [PREFACE, &frame(HEADERS, END_HEADERS, 1, &call()), &frame(DATA, END_STREAM, 1, &nonsense.encode())];
    for listener in Listener::BOTH {
        let mut io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
        let bytes = one_call.concat();
        let begun = (DIALS, "outcome=\"bad_request\"");
        siege.attack("a call", begun, io.write_all(&bytes)).await.unwrap();
        let broken = frame(HEADERS, END_HEADERS, 3, &[0xff; 64]);
        siege.attack("broken HPACK behind a call", ANY, say(io, &broken)).await;
    }
    siege.end().await;
}

/// A client that sends the preface and leaves is not an attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_only_says_hello_may_go() {
    let siege = Siege::begin().await;
    for listener in Listener::BOTH {
        let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
        say_and_leave(io, PREFACE).await;
        siege.canaries_sing().await;
    }
    siege.end().await;
}

/// Each call is a task, so the tasks that are made in one turn tell how long others wait.
#[tokio::test]
async fn calls_that_come_at_once_let_others_work_in_between() {
    const CALLS: usize = 10_000;
    let siege = Siege::begin().await;
    let io = Listener::Unix.open(&siege.cluster.server, &siege.cluster.pki).await;
    let (mut from, mut to) = tokio::io::split(io);
    let calls = repeat(CALLS as u32, |n| frame(HEADERS, END_HEADERS, 2 * n + 1, &call()));
    let writing = spawn(async move { to.write_all(&[PREFACE, &calls].concat()).await.map(|()| to) });
    let reading = spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (begin, mut before, mut most) = (tasks(), tasks(), 0);
    within("all calls", async {
        while before < begin + CALLS {
            tokio::task::yield_now().await;
            let now = tasks();
            (before, most) = (now, most.max(now.saturating_sub(before)));
        }
    })
    .await;
    assert!(most < 500, "{most} calls in one turn");
    siege.canaries_sing().await;
    drop((writing, reading));
    siege.end().await;
}
