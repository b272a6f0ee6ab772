//! Dials that another agent takes, that wait for an agent, and agents that share an id.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_proto::message::{DialReply, Hello, ON_TRIAL};
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_tests::stock::{Metadata, StockAgent};
use tunnel_tests::{
    AgentSpec, Answer, Cluster, FakeAgent, Frontend, LINKS, Target, hello, node, payload, spawn, wait_for,
    within,
};

const RETRIES: &str = "tunnel_server_dial_retries_total";

/// The longest wait of a dial for an agent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Dials that fail until an agent, asked before the others, has refused this many; and whether any failed.
const REFUSALS: u64 = 5;

async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

/// A server that gives any dial to any agent, and an agent that reaches everything.
async fn cluster(link: Link) -> Cluster {
    Cluster::builder().server_flag("proxy-strategies", "default").agent_on(link).start().await
}

/// Dials until `refused` says that enough dials were refused. The number of dials that failed.
async fn failed_dials(cluster: &Cluster, echo: &Target, refused: impl Fn() -> u64) -> u64 {
    let mut failed = 0;
    for frontend in Frontend::ALL.into_iter().cycle().take(400) {
        match within("a dial", cluster.server.dial(frontend, &echo.to_string())).await {
            Ok(mut connection) => ping(&mut connection).await,
            Err(_) => failed += 1,
        }
        if refused() >= REFUSALS {
            return failed;
        }
    }
    panic!("the agent that refuses was asked {} times", refused());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_one_agent_cannot_reach_is_asked_of_another() {
    for link in LINKS {
        for (kind, text, is_asked) in [
            (RefusalKind::Unreachable, "dial tcp 10.0.0.1:80: connect: no route to host", true),
            (RefusalKind::Dns, "dial tcp: lookup x: no such host", true),
            (RefusalKind::Timeout, "dial tcp: lookup x: i/o timeout", true),
            (RefusalKind::Refused, "dial tcp 10.0.0.1:80: connect: connection refused", false),
            (RefusalKind::Timeout, "dial tcp 10.0.0.1:80: i/o timeout", false),
            (RefusalKind::Forbidden, "denied by policy rule \"r\"", false),
        ] {
            let cluster = cluster(link).await;
            let echo = Target::echo(node(link)).await;
            let answer = DialReply::Refused(Refusal { kind, text: text.to_owned() }).encode();
            let far = FakeAgent::join(&cluster, link, hello("far", ""), Answer::Bytes(answer)).await;
            cluster.server.wait_for_tunnels(2).await;
            let failed = failed_dials(&cluster, &echo, || far.dials()).await;
            assert_eq!(failed, if is_asked { 0 } else { far.dials() }, "{text}");
            let retries = cluster.server.metrics().await.value(RETRIES);
            assert_eq!(retries.cast_unsigned(), if is_asked { far.dials() } else { 0 }, "{text}");
            drop(far);
            cluster.finish().await;
        }
    }
}

/// Konnectivity's agents have texts, and no kinds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_words_of_a_konnectivity_agent_tell_whether_another_may_reach_the_target() {
    for (text, is_asked) in [
        ("dial tcp 10.0.0.1:80: connect: no route to host", true),
        ("dial tcp: lookup x on 10.96.0.10:53: read udp 10.0.0.2:40000->10.96.0.10:53: i/o timeout", true),
        ("dial tcp 10.0.0.1:80: i/o timeout", false),
        ("dial tcp 10.0.0.1:80: connect: connection refused", false),
    ] {
        let cluster = cluster(Link::H2).await;
        let echo = Target::echo(node(Link::H2)).await;
        let mut far = StockAgent::join(cluster.server.agents, &cluster.pki, Metadata::of("far")).await;
        cluster.server.wait_for_tunnels(2).await;
        let refused = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let counter = std::sync::Arc::clone(&refused);
        let _far = spawn(async move {
            loop {
                let (_, random) = far.dialed().await;
                counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                far.refuse(random, text).await;
            }
        });
        let refused = || refused.load(std::sync::atomic::Ordering::Relaxed);
        let failed = failed_dials(&cluster, &echo, refused).await;
        assert_eq!(failed, if is_asked { 0 } else { refused() }, "{text}");
        cluster.server.wait_until_idle().await;
    }
}

/// Dials by every frontend while the agent is started anew. An error when the dials have waited for as long as they
/// may, which a busy machine can need for the agent.
async fn dials_beside_a_start(link: Link) -> Result<(), String> {
    let spec = AgentSpec::new("worker", link, node(link));
    let cluster = Cluster::builder().agent(spec.clone()).start().await;
    let echo = Target::echo(node(link)).await;
    cluster.agents[0].kill().await;
    cluster.server.wait_for_tunnels(0).await;
    let dials = Frontend::ALL.map(|frontend| {
        let (endpoint, echo) = (cluster.server.endpoint(frontend), echo.to_string());
        spawn(async move {
            let (began, options) = (Instant::now(), tunnel_client::Options::default());
            match tunnel_client::dial(frontend.protocol(), &endpoint, &echo, &options).await {
                Ok(mut connection) => {
                    ping(&mut connection).await;
                    Ok(())
                }
                Err(error) if began.elapsed() >= PATIENCE => Err(error.to_string()),
                Err(error) => panic!("{frontend:?}: {error} after {:?}", began.elapsed()),
            }
        })
    });
    wait_for("the dials to wait", async || {
        let metrics = cluster.server.metrics().await;
        let pending = metrics.value("tunnel_server_pending_dials");
        let is_late = metrics.sum("tunnel_server_dial_waits_total", &[]) > 0;
        if pending == 4 || is_late { Ok(()) } else { Err(format!("{pending} pending")) }
    })
    .await;
    let _agent = cluster.start_agent(&spec);
    for dial in dials {
        within("a dial", dial.join()).await?;
    }
    let served =
        cluster.server.metrics().await.sum("tunnel_server_dial_waits_total", &["outcome=\"served\""]);
    assert_eq!(served, 4, "over {}", link.label());
    cluster.server.wait_until_idle().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_wait_for_an_agent_that_is_started_anew() {
    const TRIES: usize = 5;
    for link in LINKS {
        let mut late = Vec::new();
        while let Err(why) = dials_beside_a_start(link).await {
            late.push(why);
            assert!(late.len() < TRIES, "over {}: {late:?}", link.label());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_an_agent_that_did_not_serve_the_target() {
    let address = Ipv4Addr::new(127, 0, 0, 9);
    let cluster = Cluster::builder().agent(AgentSpec::new("worker", Link::Quic, address)).start().await;
    cluster.agents[0].kill().await;
    cluster.server.wait_for_tunnels(0).await;
    for frontend in Frontend::ALL {
        let (_, text) = cluster.server.refusal(frontend, "127.0.0.8:80").await;
        assert!(text.starts_with("No agent available"), "{text}");
    }
    let metrics = cluster.server.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_dial_waits_total", &[]), 0);
    let (_, text) = cluster.server.refusal(Frontend::ConnectUnix, &format!("{address}:80")).await;
    assert!(text.starts_with(&format!("no agent serves {address}: agent worker last seen ")), "{text}");
    let metrics = cluster.server.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_dial_waits_total", &["outcome=\"in_vain\""]), 1);
    cluster.server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_an_agent_that_left_long_ago() {
    let cluster = Cluster::on(Link::H2).await;
    cluster.agents[0].kill().await;
    cluster.server.wait_for_tunnels(0).await;
    // Each dial that waits does so for two seconds, and the agent counts for five.
    let mut waited = 0;
    loop {
        let target = format!("{}:80", node(Link::H2));
        cluster.server.refusal(Frontend::ConnectUnix, &target).await;
        let waits = cluster.server.metrics().await.sum("tunnel_server_dial_waits_total", &[]);
        if waits == waited {
            break;
        }
        waited += 1;
        assert!(waits == waited && waited <= 3, "{waits} dials have waited");
    }
    assert!(waited > 0);
    cluster.server.wait_until_idle().await;
}

/// The agent moves from h2 to QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_on_trial_gets_no_dial_while_the_agent_has_another() {
    let at = node(Link::H2);
    let cluster = Cluster::builder().agent(AgentSpec::new("worker", Link::H2, at)).start().await;
    let echo = Target::echo(at).await;
    let tried = Hello { capabilities: vec![ON_TRIAL.to_owned()], ..hello("worker", &format!("ipv4={at}")) };
    let answer = DialReply::Refused(Refusal { kind: RefusalKind::Refused, text: "tried".to_owned() });
    let tried = FakeAgent::join(&cluster, Link::Quic, tried, Answer::Bytes(answer.encode())).await;
    cluster.server.wait_for_tunnels(2).await;
    for frontend in Frontend::ALL.into_iter().cycle().take(16) {
        ping(&mut cluster.server.connect(frontend, &echo).await).await;
    }
    assert_eq!(tried.dials(), 0);
    cluster.agents[0].kill().await;
    cluster.server.wait_for_tunnels(1).await;
    for frontend in Frontend::ALL {
        let (_, text) = cluster.server.refusal(frontend, &echo.to_string()).await;
        assert!(text.contains("tried"), "{text}");
    }
    assert_eq!(tried.dials(), 4);
    cluster.server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_with_one_agent_id_are_both_reached() {
    let twins = "tunnel_server_twin_tunnels";
    for link in LINKS {
        let (one, other) = (node(link), Ipv4Addr::new(127, 0, 0, 9));
        let cluster = Cluster::builder().agent(AgentSpec::new("clone", link, one)).start().await;
        let second = cluster.start_agent(&AgentSpec::new("clone", link, other));
        cluster.server.wait_for_tunnels(2).await;
        for address in [one, other] {
            let echo = Target::echo(address).await;
            for frontend in Frontend::ALL {
                ping(&mut cluster.server.connect(frontend, &echo).await).await;
            }
        }
        assert_eq!((cluster.agents[0].dials().await, second.dials().await), (4, 4));
        assert_eq!(cluster.server.metrics().await.value(twins), 1);
        second.kill().await;
        cluster.server.wait_for_tunnels(1).await;
        assert_eq!(cluster.server.metrics().await.value(twins), 0);
        cluster.finish().await;
    }
}
