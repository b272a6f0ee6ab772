//! Failed dials and their reasons: behaviours b03, b04, b06, b08 and b16.

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tunnel::transport::Link;
use tunnel_proto::message::DialReply;
use tunnel_proto::packet::Packet;
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{
    AgentSpec, Answer, Builder, Cluster, FakeAgent, Frontend, Gate, LINKS, Target, for_each_combination,
    hello, node, spawn, wait_for,
};

use crate::{AGENT, SERVER, wait_for_samples, wait_for_samples_of};

const FAILURES: &str = "dial_failure_count";
const AGENTS_FAILURES: &str = "endpoint_dial_failure_total";

/// Served only by an agent that answers wrongly.
const TARGET: &str = "liar.test:80";

async fn on_both_links(flags: &[(&str, &str)]) -> Cluster {
    let builder = LINKS.into_iter().fold(Cluster::builder(), Builder::agent_on);
    flags.iter().fold(builder, |builder, (name, value)| builder.server_flag(name, value)).start().await
}

/// b16: no samples, rather than samples of 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_that_work_leave_no_samples_of_failures() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let echo = Target::echo(node(link)).await;
        cluster.server.connect(frontend, &echo).await.close().await.unwrap();
        drop(cluster.server.connect(frontend, &echo).await);
    })
    .await;
    cluster.server.wait_until_idle().await;
    assert!(cluster.server.metrics().await.samples(&format!("{SERVER}_{FAILURES}")).is_empty());
    for agent in &cluster.agents {
        assert!(agent.metrics().await.samples(&format!("{AGENT}_{AGENTS_FAILURES}")).is_empty());
    }
    cluster.finish().await;
}

/// b03, and b08 for CONNECT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_target_is_an_error_response_and_unknown_to_the_agent() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let nobody = Target::nobody(node(link));
        let (status, text) = cluster.server.refusal(frontend, &nobody.to_string()).await;
        assert!(text.contains("connection refused"), "{text}");
        assert_eq!(status, (!frontend.is_grpc()).then_some(502));
    })
    .await;
    wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"error_response\"}", 8)]).await;
    for agent in &cluster.agents {
        wait_for_samples_of(agent, AGENTS_FAILURES, &[("{reason=\"unknown\"}", 4)]).await;
        wait_for_samples_of(agent, "dial_duration_seconds_count", &[("", 0)]).await;
    }
    cluster.finish().await;
}

/// b08.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_host_is_an_error_response_and_unknown_to_the_agent() {
    let cluster =
        Cluster::builder().agent_on(Link::Quic).server_flag("proxy-strategies", "default").start().await;
    for frontend in Frontend::ALL {
        let (status, text) = cluster.server.refusal(frontend, "no-such-host.invalid:80").await;
        // The error of a machine without DNS.
        assert!(text.replace("server misbehaving", "no such host").ends_with("no such host"), "{text}");
        assert_eq!(status, (!frontend.is_grpc()).then_some(502));
    }
    wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"error_response\"}", 4)]).await;
    wait_for_samples_of(&cluster.agents[0], AGENTS_FAILURES, &[("{reason=\"unknown\"}", 4)]).await;
    cluster.finish().await;
}

/// b04. The server waits longer than the agent, whose error is more precise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_answer_is_an_error_response_and_a_timeout_of_the_agent() {
    let cluster = Cluster::on_both_links().await;
    let holes = [Target::black_hole(node(Link::Quic)).await, Target::black_hole(node(Link::H2)).await];
    let targets = holes.each_ref().map(ToString::to_string);
    let [one, two] = &targets;
    let refusals = tokio::join!(
        cluster.server.refusal(Frontend::ConnectUnix, one),
        cluster.server.refusal(Frontend::GrpcUnix, one),
        cluster.server.refusal(Frontend::ConnectMtls, two),
        cluster.server.refusal(Frontend::GrpcMtls, two),
    );
    let (status, text) = &refusals.0;
    assert!(text.ends_with("i/o timeout"), "{text}");
    assert_eq!(*status, Some(504));
    wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"error_response\"}", 4)]).await;
    for agent in &cluster.agents {
        wait_for_samples_of(agent, AGENTS_FAILURES, &[("{reason=\"timeout\"}", 2)]).await;
        wait_for_samples_of(agent, "open_endpoint_connections", &[("", 0)]).await;
    }
    cluster.finish().await;
}

/// b06.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_gives_its_dial_up_is_a_frontend_close() {
    let cluster = Cluster::builder().start().await;
    let _silent =
        FakeAgent::join(&cluster, Link::Quic, hello("liar", "host=liar.test"), Answer::Silence).await;
    cluster.server.wait_for_tunnels(1).await;
    for (frontend, done) in Frontend::ALL.into_iter().zip(1..) {
        let endpoint = cluster.server.endpoint(frontend);
        let dial = spawn(async move {
            tunnel_client::dial(frontend.protocol(), &endpoint, TARGET, &Default::default()).await.map(drop)
        });
        wait_for_samples(&cluster.server, "pending_backend_dials", &[("", 1)]).await;
        drop(dial);
        wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"frontend_close\"}", done)]).await;
        wait_for_samples(&cluster.server, "pending_backend_dials", &[("", 0)]).await;
    }
    cluster.finish().await;
}

/// b06, as the kube-apiserver's client cancels a dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_cls_is_a_frontend_close() {
    let cluster = Cluster::builder().start().await;
    let _silent =
        FakeAgent::join(&cluster, Link::Quic, hello("liar", "host=liar.test"), Answer::Silence).await;
    cluster.server.wait_for_tunnels(1).await;
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    let mut call = channel.call().await;
    call.packet(&Packet::DialRequest { protocol: "tcp".into(), address: TARGET.into(), random: 5 }).await;
    wait_for_samples(&cluster.server, "pending_backend_dials", &[("", 1)]).await;
    call.packet(&Packet::CloseDial { random: 5 }).await;
    wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"frontend_close\"}", 1)]).await;
    call.end().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_does_instead_of_answering_has_a_reason() {
    let nonsense = Answer::Bytes(Bytes::from_static(&[0, 3, 0xff, 0xff, 0xff]));
    // A busy machine may be late by the short limit, so that other answers have the usual one.
    let short = [("backend-dial-timeout", "1s")];
    for (answer, reason, flags) in [
        (Answer::Die, "{reason=\"backend_close\"}", &[][..]),
        (Answer::Silence, "{reason=\"backend_dial_timeout\"}", &short),
        (nonsense, "{reason=\"unrecognized_response\"}", &[]),
    ] {
        let (cluster, mut counted) = (on_both_links(flags).await, 0);
        for link in LINKS {
            for frontend in [Frontend::ConnectUnix, Frontend::GrpcUnix] {
                let liar =
                    FakeAgent::join(&cluster, link, hello("liar", "host=liar.test"), answer.clone()).await;
                cluster.server.wait_for_tunnels(3).await;
                cluster.server.refusal(frontend, TARGET).await;
                counted += 1;
                wait_for_samples(&cluster.server, FAILURES, &[(reason, counted)]).await;
                drop(liar);
                cluster.server.wait_for_tunnels(2).await;
            }
        }
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_the_reason_is_no_agent() {
    let cluster = Cluster::builder().start().await;
    for (frontend, done) in Frontend::ALL.into_iter().zip(1..) {
        let (_, text) = cluster.server.refusal(frontend, "10.0.0.1:80").await;
        assert_eq!(text, "No agent available");
        wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"no_agent\"}", done)]).await;
    }
    cluster.finish().await;
}

/// Konnectivity's agent refuses such a dial; here the server does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_dial_of_what_is_no_target_is_an_error_response() {
    let cluster = Cluster::on(Link::Quic).await;
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    for ((protocol, address), done) in [("sctp", "127.0.0.1:80"), ("tcp", "127.0.0.1")].into_iter().zip(1..) {
        let mut call = channel.call().await;
        let request = Packet::DialRequest { protocol: protocol.into(), address: address.into(), random: 5 };
        call.packet(&request).await;
        let Some(Packet::DialResponse { error, .. }) = call.next().await else { panic!("no answer") };
        assert!(error.starts_with("dial "), "{error}");
        wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"error_response\"}", done)]).await;
    }
    cluster.finish().await;
}

/// The client sends more than the server reads before the answer, so the server does
/// not see the client's end in time to cancel the dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_no_client_takes_is_a_send_rsp() {
    const EARLY: usize = 128 * 1024;
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let gate = Gate::default();
        let connected = DialReply::Connected { address: "10.0.0.1:80".to_owned(), connect: None }.encode();
        let answer = Answer::When(gate.clone(), connected);
        let _late = FakeAgent::join(&cluster, link, hello("late", "host=liar.test"), answer).await;
        cluster.server.wait_for_tunnels(1).await;
        let mut client = UnixStream::connect(&cluster.server.unix).await.unwrap();
        let head = format!("CONNECT {TARGET} HTTP/1.1\r\n\r\n");
        let sent = client.write_all(&[head.as_bytes(), &[0; EARLY]].concat()).await;
        sent.unwrap();
        drop(client);
        wait_for_samples(&cluster.server, "pending_backend_dials", &[("", 1)]).await;
        gate.open();
        wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"send_rsp\"}", 1)]).await;
        let metrics = cluster.server.metrics().await;
        assert_eq!(metrics.sum("tunnel_server_dials_total", &["outcome=\"unanswered\""]), 1);
        // The connection was dialled and never established.
        wait_for_samples(&cluster.server, "dial_duration_seconds_count", &[("", 1)]).await;
        wait_for_samples(&cluster.server, "connection_duration_seconds_count", &[("", 0)]).await;
        wait_for_samples(&cluster.server, "established_connections", &[("", 0)]).await;
        cluster.finish().await;
    }
}

/// "Multiple failures can occur for a single dial request."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_is_tried_again_has_failed_once() {
    for link in LINKS {
        let cluster = Cluster::builder().agent(AgentSpec::new("same", link, node(link))).start().await;
        let echo = Target::echo(node(link)).await;
        let newest = hello("same", &format!("ipv4={}", node(link)));
        let _dies = FakeAgent::join(&cluster, link, newest, Answer::Die).await;
        cluster.server.wait_for_tunnels(2).await;
        cluster.server.connect(Frontend::ConnectUnix, &echo).await.close().await.unwrap();
        wait_for_samples(&cluster.server, FAILURES, &[("{reason=\"backend_close\"}", 1)]).await;
        wait_for_samples(&cluster.server, "dial_duration_seconds_count", &[("", 1)]).await;
        assert_eq!(cluster.server.metrics().await.value("tunnel_server_dial_retries_total"), 1);
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stages_of_a_dial_are_measured_by_link() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let echo = Target::echo(node(link)).await;
        cluster.server.connect(frontend, &echo).await.close().await.unwrap();
    })
    .await;
    let metrics = cluster.server.metrics().await;
    for link in LINKS {
        let link = format!("link=\"{}\"", link.label());
        assert_eq!(metrics.sum("tunnel_server_dial_duration_seconds_count", &[&link]), 4);
        assert_eq!(metrics.sum("tunnel_server_streams_opened_total", &[&link]), 4);
        for stage in ["stage=\"open\"", "stage=\"answer\""] {
            let name = "tunnel_server_dial_stage_duration_seconds_count";
            assert_eq!(metrics.sum(name, &[&link, stage]), 4);
        }
    }
    wait_for("the streams to be over", async || {
        match cluster.server.metrics().await.sum("tunnel_server_streams", &[]) {
            0 => Ok(()),
            open => Err(format!("{open} open")),
        }
    })
    .await;
    cluster.finish().await;
}
