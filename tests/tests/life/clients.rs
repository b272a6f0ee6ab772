//! Readiness, and the ends that a client or a target brings about.

use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_proto::packet::Packet;
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, LINKS, Pki, Target, Who, for_each_combination, get, node, spawn, wait_for,
    wait_within,
};

use crate::PROMPT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_tells_what_is_missing() {
    let cluster = Cluster::builder().start().await;
    for path in ["/healthz", "/livez"] {
        assert_eq!(get(cluster.server.health, path).await.unwrap(), (200, "ok".to_owned()), "{path}");
    }
    let (status, text) = cluster.server.readiness().await.unwrap();
    assert_eq!(status, 500);
    assert_eq!(text.trim_end(), "no connection to any proxy agent");

    let agent = cluster.start_agent(&AgentSpec::new("agent", Link::H2, node(Link::H2)));
    cluster.server.wait_for_tunnels(1).await;
    assert_eq!(cluster.server.readiness().await.unwrap(), (200, "ok".to_owned()));
    let (status, text) = get(cluster.server.health, "/readyz?verbose").await.unwrap();
    assert_eq!((status, text.contains("[+]agent-connected ok")), (200, true), "{text}");
    agent.wait_for_servers(1, 1).await;
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(get(agent.health, path).await.unwrap(), (200, "ok".to_owned()), "{path}");
    }
    agent.kill().await;
    cluster.server.wait_for_tunnels(0).await;
    assert_eq!(cluster.server.readiness().await.unwrap().0, 500);
    cluster.finish().await;
}

/// The agent's own limit is five seconds, so cancelled dials before that were ended by
/// the client's leaving.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_its_dial_at_the_agent() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let hole = Target::black_hole(node(link)).await;
        let agent = &cluster.agents[usize::from(link == Link::H2)];
        let cancelled =
            async || agent.metrics().await.sum("tunnel_agent_dials_total", &["outcome=\"cancelled\""]);
        let before = cancelled().await;
        let (endpoint, target) = (cluster.server.endpoint(frontend), hole.to_string());
        let dial = spawn(async move {
            tunnel_client::dial(frontend.protocol(), &endpoint, &target, &Default::default()).await.map(drop)
        });
        wait_for("the dial to be under way", async || {
            let server = cluster.server.metrics().await.value("tunnel_server_pending_dials");
            match (server, agent.connections().await) {
                (1, 1) => Ok(()),
                counted => Err(format!("{counted:?} dials at server and agent")),
            }
        })
        .await;
        drop(dial);
        wait_within(PROMPT, "the dial to be over", async || {
            let server = cluster.server.metrics().await.value("tunnel_server_pending_dials");
            match (server, agent.connections().await, cancelled().await - before) {
                (0, 0, 1) => Ok(()),
                counted => Err(format!("{counted:?} dials at server and agent, and cancelled")),
            }
        })
        .await;
    })
    .await;
    cluster.server.wait_until_idle().await;
    let metrics = cluster.server.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_dials_total", &["outcome=\"cancelled\""]), 8);
    cluster.finish().await;
}

/// The connection of a gRPC client is over with CLOSE_RSP, even if the client leaves
/// the call open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_connection_is_over_as_soon_as_its_target_has_closed() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let closes = Target::new(node(link), async |_socket| Ok(())).await;
        let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
        let mut call = channel.call().await;
        call.dial(&closes.to_string()).await;
        assert!(matches!(call.next().await, Some(Packet::CloseResponse { .. })));
        wait_within(PROMPT, "the connection to be over", async || {
            let server = cluster.server.metrics().await;
            let connections = server.sum("tunnel_server_connections", &[]);
            match (connections, cluster.agents[0].connections().await) {
                (0, 0) => Ok(()),
                counted => Err(format!("{counted:?} connections at server and agent")),
            }
        })
        .await;
        assert_eq!(call.end().await.1, 0);
        cluster.finish().await;
    }
}

/// Fails if an agent without a server is unhealthy sooner than after the two seconds of its flag.
async fn assert_healthy_at_first(agent: &Agent, began: Instant) {
    let (status, text) = get(agent.health, "/healthz").await.unwrap();
    assert!(status == 200 || began.elapsed() >= Duration::from_secs(2), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_as_strict_as_it_is_asked_to_be() {
    let cluster = Cluster::builder()
        .server_flag("proxy-strategies", "destHost,defaultRoute")
        .agent_on(Link::H2)
        .start()
        .await;
    let ready = async |path: &str| get(cluster.server.health, path).await.unwrap();
    assert_eq!(ready("/readyz").await.0, 200);
    assert_eq!(ready("/readyz?strategy=destHost").await.0, 200);
    let missing = (500, "no agent for the strategy defaultRoute".to_owned());
    assert_eq!(ready("/readyz?strategy=destHost&strategy=defaultRoute").await, missing);
    assert_eq!(ready("/readyz?strategy=nearest").await.0, 500);

    // Nobody listens on the second address.
    let nobody = Target::nobody([127, 0, 0, 1].into());
    let spec = AgentSpec::new("other", Link::H2, node(Link::H2));
    let agent = Agent::start(&cluster.pki, &[cluster.server.agents, nobody], &spec);
    agent.wait_for_servers(1, 2).await;
    let ready = async |path: &str| get(agent.health, path).await.unwrap();
    assert_eq!(ready("/readyz").await.0, 200);
    let (status, text) = ready("/readyz?servers=all").await;
    assert_eq!((status, text.contains("[-]servers failed: 1 of 2 servers")), (503, true), "{text}");
    assert_eq!(ready("/readyz?servers=most").await.0, 503);
    assert_eq!(get(cluster.agents[0].health, "/readyz?servers=all").await.unwrap().0, 200);

    // An agent that trusts another authority never gets a tunnel, and says why.
    let dir = tempfile::tempdir().unwrap();
    let (spec, began) = (spec.flag("unhealthy-after", "2s"), Instant::now());
    let stranger = Agent::start(&Pki::make(dir.path()), &[cluster.server.agents], &spec);
    assert_healthy_at_first(&stranger, began).await;
    wait_for("the reason", async || match stranger.readiness().await.unwrap() {
        (503, text)
            if text.contains("no servers connected: ") && text.contains("invalid peer certificate") =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    // A kubelet that asks starts it anew in the end. One with a tunnel, or without the flag, stays.
    wait_for("the agent to be unhealthy", async || match get(stranger.health, "/livez").await.unwrap() {
        (500, text)
            if text.starts_with("no servers connected for ") && text.contains("invalid peer certificate") =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    let well = Agent::start(&cluster.pki, &[cluster.server.agents], &spec);
    well.wait_for_servers(1, 1).await;
    for healthy in [&well, &agent] {
        assert_eq!(get(healthy.health, "/healthz").await.unwrap().0, 200);
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_certificate_has_expired_is_unhealthy_after_a_while_and_says_why() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let [cert, key] = [cluster.pki.cert(Who::Expired), cluster.pki.key(Who::Expired)];
        let spec = AgentSpec::new("late", link, node(link))
            .flag("agent-cert", &cert.display().to_string())
            .flag("agent-key", &key.display().to_string())
            .flag("unhealthy-after", "2s");
        let began = Instant::now();
        let agent = cluster.start_agent(&spec);
        assert_healthy_at_first(&agent, began).await;
        wait_for("the agent to be unhealthy", async || match get(agent.health, "/healthz").await.unwrap() {
            (500, text) if text.contains("expired") || text.contains("Expired") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        cluster.finish().await;
    }
}
