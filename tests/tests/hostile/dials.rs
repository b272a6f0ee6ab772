//! Agents that answer dials in violation of the protocol.

use bytes::Bytes;
use tunnel_proto::message::DialReply;
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_tests::raw::Listener;
use tunnel_tests::{
    Answer, Builder, Cluster, FakeAgent, LINKS, for_each_combination, hello, payload, wait_for, within,
};

use crate::{DIALS, Siege, say};

/// Served by the agent that lies, and by no other.
const TARGET: &str = "liar.test:80";

async fn liar(siege: &Siege, link: tunnel::transport::Link, answer: Answer) -> FakeAgent {
    let liar = FakeAgent::join(&siege.cluster, link, hello("liar", "host=liar.test"), answer).await;
    siege.cluster.server.wait_for_tunnels(3).await;
    liar
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_answer_to_a_dial_is_an_error_of_that_dial_alone() {
    const NONSENSE: &str = "agent liar answered the dial with nonsense";
    let long = Bytes::from([&[0x10, 1][..], &payload::bytes(7, 4_097)].concat());
    let cases = [
        (Answer::Bytes(Bytes::from_static(&[0, 3, 0xff, 0xff, 0xff])), "bad_answer", 502, NONSENSE),
        (Answer::Bytes(Bytes::from_static(&[0, 0])), "bad_answer", 502, NONSENSE),
        (Answer::Bytes(long), "bad_answer", 502, NONSENSE),
        (Answer::End, "bad_answer", 502, NONSENSE),
        (Answer::Reset, "agent_lost", 502, "agent liar was lost while dialling liar.test:80"),
    ];
    refused_with(Siege::begin().await, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_without_an_answer_costs_its_limit() {
    let cases = [
        (Answer::Silence, "timeout", 504, "agent liar did not answer the dial of liar.test:80 within 1s"),
        // The beginning of an answer is not an answer.
        (Answer::Bytes(Bytes::from_static(&[0, 9, 1])), "timeout", 504, "agent liar did not answer"),
    ];
    // Of one second, in which a busy machine may not get another answer.
    let both = LINKS.into_iter().fold(Cluster::builder(), Builder::agent_on);
    let cluster = both.server_flag("backend-dial-timeout", "1s").start().await;
    refused_with(Siege::of(cluster).await, &cases).await;
}

/// Dials of an agent that gives these answers fail with an outcome, a status and a text.
async fn refused_with(siege: Siege, cases: &[(Answer, &str, u16, &str)]) {
    for (answer, outcome, status, text) in cases {
        let what = format!("the answer {answer:?}");
        for_each_combination(async |frontend, link| {
            let liar = liar(&siege, link, answer.clone()).await;
            let outcome = format!("outcome=\"{outcome}\"");
            let refused = siege.cluster.server.refusal(frontend, TARGET);
            let (code, said) = siege.attack(&what, (DIALS, &outcome), refused).await;
            assert!(said.starts_with(text), "{what}: {said}");
            assert_eq!(code, (!frontend.is_grpc()).then_some(*status));
            drop(liar);
            siege.cluster.server.wait_for_tunnels(2).await;
        })
        .await;
    }
    siege.end().await;
}

/// An agent's text goes into a status line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_words_of_a_refusal_cannot_add_to_the_answer() {
    let siege = Siege::begin().await;
    let text = format!("no\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK {}", "x".repeat(3_000));
    let refusal = DialReply::Refused(Refusal { kind: RefusalKind::Refused, text });
    for link in LINKS {
        let _liar = liar(&siege, link, Answer::Bytes(refusal.encode())).await;
        for listener in Listener::BOTH {
            let io = listener.open(&siege.cluster.server, &siege.cluster.pki).await;
            let request = format!("CONNECT {TARGET} HTTP/1.1\r\n\r\n");
            let refused = (DIALS, "outcome=\"refused\"");
            let answer = siege.attack("evil words", refused, say(io, request.as_bytes())).await;
            assert!(answer.starts_with(r"HTTP/1.1 502 no\r\nX-Evil: 1\r\n\r\nHTTP/1.1 200 OK"), "{answer:?}");
            let head = answer.split_once("\r\n\r\n").unwrap().0;
            assert!(head.lines().skip(1).all(|line| !line.starts_with("X-Evil")), "{head}");
        }
        drop(_liar);
        siege.cluster.server.wait_for_tunnels(2).await;
    }
    siege.end().await;
}

/// Bytes after the answer "connected" are the target's, as far as a server can see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_connects_and_says_nothing_holds_only_its_clients() {
    let siege = Siege::begin().await;
    let connected = DialReply::Connected { address: "\u{1b}]0;evil\u{7}".to_owned(), connect: None }.encode();
    for_each_combination(async |frontend, link| {
        let liar = liar(&siege, link, Answer::Bytes(connected.clone())).await;
        let mut connection = siege.cluster.server.connect(frontend, TARGET).await;
        payload::write(&mut connection, b"hello?").await.unwrap();
        siege.canaries_sing().await;
        drop(liar);
        // The connection ends with its agent.
        let end = within("the end", payload::read_all(&mut connection)).await;
        assert!(end.as_ref().map_or(true, Vec::is_empty), "{end:?}");
        siege.cluster.server.wait_for_tunnels(2).await;
    })
    .await;
    wait_for("the canaries to be alone", async || {
        let metrics = siege.cluster.server.metrics().await;
        match metrics.sum("tunnel_server_connections", &[]) {
            8 => Ok(()),
            _ => Err(metrics.show("tunnel_server")),
        }
    })
    .await;
    siege.end().await;
}
