//! The choice of an agent for a dial, and the error when there is none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;

use tokio::io::AsyncReadExt as _;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_tests::{
    Agent, AgentSpec, Answer, Cluster, FakeAgent, Frontend, LINKS, Target, for_each_combination, hello, node,
    payload, wait_for, within,
};

const A: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const B: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);
const C: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);

/// An agent with these identifiers.
fn agent(id: &str, identifiers: &str) -> AgentSpec {
    AgentSpec::new(id, Link::H2, A).flag("agent-identifiers", identifiers)
}

/// One byte there and back.
async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

/// Dials through every frontend; the ids of the agents that got a dial.
async fn who_serves(cluster: &Cluster, agents: &[&Agent], target: &str) -> Vec<String> {
    let mut before = Vec::new();
    for agent in agents {
        before.push(agent.dials().await);
    }
    for frontend in Frontend::ALL {
        let mut connection = cluster.server.connect(frontend, target).await;
        ping(&mut connection).await;
        connection.close().await.unwrap();
    }
    let mut serving = Vec::new();
    for (agent, before) in agents.iter().zip(before) {
        if agent.dials().await > before {
            serving.push(agent.id.clone());
        }
    }
    serving
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strategies_are_asked_in_their_order() {
    let specs = [
        agent("by-address", &format!("ipv4={A}")),
        agent("by-name", "host=LocalHost"),
        agent("route", "default-route=true"),
        agent("any", ""),
    ];
    let builder = specs.into_iter().fold(Cluster::builder(), |builder, spec| builder.agent(spec));
    let cluster = builder.server_flag("proxy-strategies", "destHost,defaultRoute,default").start().await;
    let agents: Vec<&Agent> = cluster.agents.iter().collect();
    let (on_a, on_b, local) =
        (Target::echo(A).await, Target::echo(B).await, Target::echo(Ipv4Addr::LOCALHOST).await);
    let by_name = format!("localhost:{}", local.addr.port());

    assert_eq!(who_serves(&cluster, &agents, &on_a.to_string()).await, ["by-address"]);
    assert_eq!(who_serves(&cluster, &agents, &by_name).await, ["by-name"]);
    assert_eq!(who_serves(&cluster, &agents, &by_name.to_uppercase()).await, ["by-name"]);
    assert_eq!(who_serves(&cluster, &agents, &on_b.to_string()).await, ["route"]);
    // Without a default route every agent is a candidate, with any identifiers.
    cluster.agents[2].kill().await;
    cluster.server.wait_for_tunnels(3).await;
    let left = [agents[0], agents[1], agents[3]];
    assert!(!who_serves(&cluster, &left, &on_b.to_string()).await.is_empty());
    drop(agents);
    cluster.server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_network_of_the_target_decides() {
    let specs = [
        agent("all", "cidr=127.0.0.0/8"),
        agent("some", "cidr=127.0.0.0/29&cidr=fd00::/8"),
        agent("one", &format!("cidr={B}/32")),
        // Konnectivity accepts any text as an address; no dial asks for it.
        agent("none", "ipv4=${HOST_IP}&cidr=127.0.0.3"),
    ];
    let builder = specs.into_iter().fold(Cluster::builder(), |builder, spec| builder.agent(spec));
    let cluster = builder.server_flag("proxy-strategies", "destCIDR,default").start().await;
    let agents: Vec<&Agent> = cluster.agents.iter().collect();
    let far = Target::echo(Ipv4Addr::new(127, 0, 1, 1)).await;
    for (target, serving) in [(Target::echo(A).await, "some"), (Target::echo(B).await, "one"), (far, "all")] {
        assert_eq!(who_serves(&cluster, &agents, &target.to_string()).await, [serving]);
    }
    cluster.agents[2].kill().await;
    cluster.server.wait_for_tunnels(3).await;
    let on_b = Target::echo(B).await;
    assert_eq!(who_serves(&cluster, &agents[..2], &on_b.to_string()).await, ["some"]);
    drop(agents);
    cluster.server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identifier_of_two_agents_is_shared() {
    let cluster = Cluster::builder()
        .agent(agent("one", &format!("ipv4={A}&ipv4={B}")))
        .agent(agent("two", &format!("ipv4={B}&ipv4={C}")))
        .start()
        .await;
    let agents: Vec<&Agent> = cluster.agents.iter().collect();
    let (on_a, on_b, on_c) = (Target::echo(A).await, Target::echo(B).await, Target::echo(C).await);
    assert_eq!(who_serves(&cluster, &agents, &on_a.to_string()).await, ["one"]);
    assert_eq!(who_serves(&cluster, &agents, &on_c.to_string()).await, ["two"]);
    wait_for("both to be chosen", async || {
        let served = who_serves(&cluster, &agents, &on_b.to_string()).await;
        if served.len() == 2 { Ok(()) } else { Err(format!("{served:?}")) }
    })
    .await;
    drop(agents);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_the_answer_says_so() {
    let cluster = Cluster::builder().server_flag("proxy-strategies", "default").start().await;
    for frontend in Frontend::ALL {
        let (status, text) = cluster.server.refusal(frontend, "127.0.0.1:80").await;
        assert_eq!(text, "No agent available", "{frontend:?}");
        assert_eq!(status, (!frontend.is_grpc()).then_some(503));
    }
    cluster.server.wait_until_idle().await;
    let counted = cluster.server.metrics().await.sum("tunnel_server_dials_total", &["outcome=\"no_agent\""]);
    assert_eq!(counted, 4);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_left_is_named() {
    let cluster = Cluster::builder().agent(agent("worker-7", &format!("ipv4={A}"))).start().await;
    cluster.agents[0].kill().await;
    cluster.server.wait_for_tunnels(0).await;
    for frontend in Frontend::ALL {
        let (status, text) = cluster.server.refusal(frontend, &format!("{A}:80")).await;
        assert!(text.starts_with(&format!("no agent serves {A}: agent worker-7 last seen ")), "{text}");
        assert!(text.contains("No agent available"), "{text}");
        assert_eq!(status, (!frontend.is_grpc()).then_some(503));
        // Also an agent that did not claim the target, as with the strategy `default`.
        let (_, text) = cluster.server.refusal(frontend, &format!("{C}:80")).await;
        assert!(text.starts_with("No agent available: agent worker-7 last seen "), "{text}");
    }
    cluster.server.wait_until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_no_agent_serves_is_named() {
    let cluster = Cluster::builder().agent(agent("worker", &format!("ipv4={A}"))).start().await;
    for frontend in Frontend::ALL {
        let (status, text) = cluster.server.refusal(frontend, &format!("{B}:80")).await;
        assert_eq!(text, format!("no agent serves {B}"));
        assert_eq!(status, (!frontend.is_grpc()).then_some(503));
    }
    cluster.finish().await;
}

/// The texts are Go's, because runbooks and other programs search for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_dialled_is_refused_in_the_words_of_go() {
    let cluster = Cluster::builder().server_flag("proxy-strategies", "destHost,default");
    let cluster = cluster.agent_on(Link::Quic).agent_on(Link::H2).start().await;
    for_each_combination(async |frontend, link| {
        let nobody = Target::nobody(node(link));
        let (status, text) = cluster.server.refusal(frontend, &nobody.to_string()).await;
        assert_eq!(text, format!("dial tcp {nobody}: connect: connection refused"));
        assert_eq!(status, (!frontend.is_grpc()).then_some(502));
    })
    .await;
    for frontend in Frontend::ALL {
        let (status, text) = cluster.server.refusal(frontend, "no-such-host.invalid:80").await;
        // The error of a machine without DNS.
        let text = text.replace("server misbehaving", "no such host");
        assert_eq!(text, "dial tcp: lookup no-such-host.invalid: no such host");
        assert_eq!(status, (!frontend.is_grpc()).then_some(502));
        for (target, why) in [
            ("127.0.0.1", "missing port in address"),
            ("127.0.0.1:0", "invalid port"),
            ("127.0.0.1:65536", "invalid port"),
            ("127.1:80", "invalid host"),
            (":80", "invalid host"),
        ] {
            let (status, text) = cluster.server.refusal(frontend, target).await;
            assert!(text.ends_with(&format!("address {target}: {why}")), "{frontend:?}: {text}");
            assert_eq!(status, (!frontend.is_grpc()).then_some(400), "{frontend:?}: {text}");
        }
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_tunnel_of_an_agent_gets_the_dials_and_the_older_keeps_its_connections() {
    for link in LINKS {
        let same = AgentSpec::new("same", link, node(link));
        let cluster = Cluster::builder().agent(same.clone()).start().await;
        let (echo, older) = (Target::echo(node(link)).await, &cluster.agents[0]);
        let mut kept = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
        ping(&mut kept).await;

        let newer = cluster.start_agent(&same);
        cluster.server.wait_for_tunnels(2).await;
        let dialled = older.dials().await;
        for frontend in Frontend::ALL {
            ping(&mut cluster.server.connect(frontend, &echo).await).await;
        }
        assert_eq!((older.dials().await, newer.dials().await), (dialled, 4));
        ping(&mut kept).await;

        newer.kill().await;
        cluster.server.wait_for_tunnels(1).await;
        for frontend in Frontend::ALL {
            ping(&mut cluster.server.connect(frontend, &echo).await).await;
        }
        assert_eq!(older.dials().await, dialled + 4);
        ping(&mut kept).await;
        drop(kept);
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_is_tried_on_another_agent_when_the_first_dies() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let echo = Target::echo(node(link)).await;
        let retries = async || cluster.server.metrics().await.value("tunnel_server_dial_retries_total");
        for (frontend, done) in Frontend::ALL.into_iter().zip(1..) {
            // Idle agents are preferred, so this one is asked soon.
            let busy = cluster.server.connect(frontend, &echo).await;
            let served = format!("ipv4={}", node(link));
            let dies = FakeAgent::join(&cluster, link, hello("dies", &served), Answer::Die).await;
            cluster.server.wait_for_tunnels(2).await;
            for _ in 0..100 {
                ping(&mut cluster.server.connect(frontend, &echo).await).await;
                if dies.dials() > 0 {
                    break;
                }
            }
            assert_eq!(retries().await, done, "{frontend:?} over {}", link.label());
            cluster.server.wait_for_tunnels(1).await;
            drop(busy);
        }
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_of_the_only_agent_that_dies_says_who_was_lost() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        for frontend in Frontend::ALL {
            let served = hello("dies", &format!("ipv4={A}"));
            let _dies = FakeAgent::join(&cluster, link, served, Answer::Die).await;
            cluster.server.wait_for_tunnels(1).await;
            let (status, text) = cluster.server.refusal(frontend, &format!("{A}:80")).await;
            assert!(text.starts_with(&format!("agent dies was lost while dialling {A}:80: ")), "{text}");
            assert_eq!(status, (!frontend.is_grpc()).then_some(502));
            cluster.server.wait_for_tunnels(0).await;
        }
        cluster.finish().await;
    }
}

/// The older tunnel of an agent that was replaced is still good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_is_tried_on_the_older_tunnel_of_an_agent_when_the_newest_dies() {
    for_each_combination(async |frontend, link| {
        let cluster = Cluster::builder().agent(AgentSpec::new("same", link, node(link))).start().await;
        let echo = Target::echo(node(link)).await;
        let newest = hello("same", &format!("ipv4={}", node(link)));
        let dies = FakeAgent::join(&cluster, link, newest, Answer::Die).await;
        cluster.server.wait_for_tunnels(2).await;
        ping(&mut cluster.server.connect(frontend, &echo).await).await;
        assert_eq!(dies.dials(), 1);
        cluster.finish().await;
    })
    .await;
}
