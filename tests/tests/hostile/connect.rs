//! HTTP/1 requests other than CONNECT, and bytes that are not HTTP.

use tunnel_tests::payload;
use tunnel_tests::raw::Listener;

use crate::{CLIENTS, DIALS, Siege, say, say_and_leave};

const BAD: (&str, &str) = (CLIENTS, "reason=\"bad_request\"");
const NONE: (&str, &str) = (CLIENTS, "reason=\"no_request\"");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_connect_request_is_refused_with_its_reason() {
    let siege = Siege::begin().await;
    let megabyte = "a".repeat(1 << 20);
    let fields = "X: y\r\n".repeat(100);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("garbage", [&[0xff, 0xfe][..], &payload::bytes(1, 4096)].concat(), 400, "malformed http request"),
        ("a GET", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 405, "this proxy only supports CONNECT"),
        ("a target of 1 MiB", format!("CONNECT {megabyte}").into(), 431, "request head over"),
        (
            "a field of 1 MiB",
            format!("CONNECT a:1 HTTP/1.1\r\nX: {megabyte}").into(),
            431,
            "request head over",
        ),
        (
            "a hundred fields",
            format!("CONNECT a:1 HTTP/1.1\r\n{fields}\r\n").into(),
            431,
            "request head over",
        ),
        ("a body", b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 5\r\n\r\n".into(), 400, "no body"),
        ("chunks", b"CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400, "no body"),
        (
            "two hosts",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(),
            400,
            "more than one host",
        ),
        ("HTTP/0.9", b"CONNECT a:1\r\n\r\n".into(), 400, "malformed http request"),
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".into(), 400, "malformed http request"),
        ("no port", b"CONNECT localhost HTTP/1.1\r\n\r\n".into(), 400, "missing port in address"),
        ("a URL", b"CONNECT http://a/ HTTP/1.1\r\n\r\n".into(), 400, "invalid"),
        ("half an address", b"CONNECT [::1 HTTP/1.1\r\n\r\n".into(), 400, "missing port in address"),
        ("a port in words", b"CONNECT a:http HTTP/1.1\r\n\r\n".into(), 400, "invalid port"),
    ];
    for listener in Listener::BOTH {
        for (what, bytes, status, reason) in &cases {
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            let answer = siege.attack(what, BAD, say(io, bytes)).await;
            let line = answer.lines().next().unwrap_or_default();
            let begin = format!("HTTP/1.1 {status} ");
            assert!(line.starts_with(&begin) && line.contains(reason), "{what} on {listener:?}: {answer:?}");
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_within_the_request_is_counted_and_gets_no_answer() {
    let siege = Siege::begin().await;
    for listener in Listener::BOTH {
        for begun in
            ["", "C", "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: x\r\n", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n"]
        {
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            let counter = if begun.is_empty() { (CLIENTS, "reason=\"said_nothing\"") } else { NONE };
            let answer = siege.attack(begun, counter, say_and_leave(io, begun.as_bytes())).await;
            assert_eq!(answer, "", "{begun:?} on {listener:?}");
        }
    }
    siege.end().await;
}

/// A client's target goes into log lines and answers. It must not add lines of its
/// own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_targets_come_back_in_one_printable_line() {
    let siege = Siege::begin().await;
    for listener in Listener::BOTH {
        for target in ["\u{1b}[31m:80", "a\u{7f}b:80", "ünïcode:80", "127.1:80", "0x7f000001:80"] {
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
            let answer = siege.attack(target, BAD, say(io, request.as_bytes())).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{target:?}: {answer:?}");
            assert!(answer.chars().all(|c| c == '\r' || c == '\n' || !c.is_control()), "{answer:?}");
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frontend_of_one_mode_refuses_the_other() {
    for (mode, bytes, status) in [
        ("grpc", &b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 400 "),
        ("http-connect", tunnel_tests::raw::PREFACE, ""),
    ] {
        let cluster = tunnel_tests::Cluster::builder().server_flag("mode", mode).start().await;
        for (listener, counted) in Listener::BOTH.into_iter().zip(1..) {
            let answer = say(listener.open(&cluster.server, &cluster.pki).await, bytes).await;
            assert!(answer.starts_with(status), "{mode}: {answer:?}");
            assert!(!answer.contains(" 200 "), "{mode}: {answer:?}");
            let metrics = cluster.server.metrics().await;
            assert_eq!(metrics.sum(CLIENTS, &["reason=\"wrong_mode\""]), counted);
        }
        cluster.finish().await;
    }
}

/// A kube-apiserver sends no bytes behind its request, but other clients do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_behind_the_request_belong_to_the_connection() {
    let siege = Siege::begin().await;
    for (listener, echo) in Listener::BOTH.into_iter().zip(&siege.echoes) {
        let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
        let request = format!("CONNECT {echo} HTTP/1.1\r\n\r\nhello");
        let connected = (DIALS, "outcome=\"connected\"");
        let answer = siege.attack("an early client", connected, say_and_leave(io, request.as_bytes())).await;
        assert_eq!(answer, "HTTP/1.1 200 Connection Established\r\n\r\nhello");
    }
    siege.end().await;
}
