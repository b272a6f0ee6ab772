//! Agents of a server: admission, the choice among them, their metrics, and the server's drain.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tunnel_proto::packet::Packet;
use tunnel_tests::stock::{GoAgent, Metadata, NotServed, StockAgent, alpn};
use tunnel_tests::{Cluster, Frontend, Target, Who, panics, wait_for, within};

use crate::ways::{FRONTENDS, connected, ping, scripted_agent, stock_agent};

/// Certificates of another authority, expired ones, a server's, and none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_agent_needs_the_right_certificate() {
    let cluster = Cluster::builder().start().await;
    for who in [Who::Stranger, Who::Expired, Who::Server] {
        let tls = alpn(&cluster.pki, who, &["h2"]);
        let joined = Box::pin(StockAgent::connect(cluster.server.agents, tls, Metadata::of("a"))).await;
        assert!(matches!(joined, Err(NotServed::Connection(_) | NotServed::Cut(_))), "{who:?}: {joined:?}");
    }
    let mut nobody = rustls::ClientConfig::clone(&cluster.pki.nobody());
    nobody.alpn_protocols = vec![b"h2".to_vec()];
    let joined = StockAgent::connect(cluster.server.agents, nobody.into(), Metadata::of("a"));
    let joined = Box::pin(joined).await;
    assert!(matches!(joined, Err(NotServed::Connection(_) | NotServed::Cut(_))), "{joined:?}");
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

/// Stock agents make one call on a connection. Each one more would be memory that an agent takes. HTTP/2's
/// library refuses calls beyond the number that it was told to announce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_for_one_call() {
    let cluster = Cluster::builder().start().await;
    let agent = scripted_agent(&cluster, "one").await;
    assert_eq!(agent.allowed_calls(), 1);
    drop(agent);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b25_metadata_that_makes_no_sense_is_refused_and_what_is_unknown_ignored() {
    let cluster = Cluster::builder().start().await;
    let join = async |metadata| {
        let tls = alpn(&cluster.pki, Who::Agent, &["h2"]);
        Box::pin(StockAgent::connect(cluster.server.agents, tls, metadata)).await
    };
    let of = Metadata::of;
    for (what, metadata, expected) in [
        ("no id", Metadata::empty(), Some("expected one agent ID in the context, got []")),
        ("two ids", of("a").and("agentid", "b"), Some("expected one agent ID in the context, got [a b]")),
        ("an empty id", of(""), None),
        ("two lists", of("a").and("agentidentifiers", "host=b"), None),
        ("a semicolon", of("a").identifiers("host=a;host=b"), None),
        ("half an escape", of("a").identifiers("host=%4"), None),
    ] {
        match join(metadata).await {
            Err(NotServed::Status(2, text)) => {
                assert!(expected.is_none_or(|expected| expected == text), "{what}: {text}");
                assert!(!text.is_empty(), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    cluster.server.wait_for_tunnels(0).await;
    let odd = of("a").identifiers("uid=x&flavour=vanilla&default-route=yes").and("x-from-the-future", "1");
    let _agent = join(odd).await.unwrap();
    let _older = join(Metadata::empty().and("agentid", "b")).await.unwrap();
    cluster.server.wait_for_tunnels(2).await;
    cluster.finish().await;
}

/// The agents that are asked for a target.
async fn who(cluster: &Cluster, agents: &[(&str, &GoAgent)], target: &str) -> Vec<String> {
    let before: Vec<u64> = agents.iter().map(|(_, agent)| agent.dials()).collect();
    for frontend in FRONTENDS {
        // No target listens: the test is about the agent that is asked.
        let _ = within("a dial", cluster.server.dial(frontend, target)).await;
    }
    let asked = agents.iter().zip(before).filter(|((_, agent), before)| agent.dials() > *before);
    asked.map(|((id, _), _)| (*id).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b24_strategies_know_the_identifiers_of_stock_agents() {
    let flag = "destHost,defaultRoute,default";
    let cluster = Cluster::builder().server_flag("proxy-strategies", flag).start().await;
    let identifiers = [
        ("address", "ipv4=127.0.0.3&ipv6=%3A%3A1"),
        ("name", "host=localhost&default-route=false"),
        ("route", "default-route=true"),
        ("also-address", "ipv4=127.0.0.3"),
    ];
    let mut agents = Vec::new();
    for (id, identifiers) in identifiers {
        agents.push((id, stock_agent(&cluster, id, identifiers).await));
    }
    cluster.server.wait_for_tunnels(4).await;
    let all: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    assert_eq!(who(&cluster, &all, "[::1]:1").await, ["address"]);
    assert_eq!(who(&cluster, &all, "localhost:1").await, ["name"]);
    assert_eq!(who(&cluster, &all, "127.0.0.8:1").await, ["route"]);
    wait_for("both agents of one address to be asked", async || {
        match who(&cluster, &all, "127.0.0.3:1").await {
            asked if asked == ["address", "also-address"] => Ok(()),
            asked => Err(format!("{asked:?}")),
        }
    })
    .await;
    // The identifier falls to the other agent that has it.
    agents.remove(0);
    cluster.server.wait_for_tunnels(3).await;
    let left: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    for _ in 0..4 {
        assert_eq!(who(&cluster, &left, "127.0.0.3:1").await, ["also-address"]);
    }
    // Without a default route any agent is asked.
    agents.remove(1);
    cluster.server.wait_for_tunnels(2).await;
    let left: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    assert!(!who(&cluster, &left, "127.0.0.8:1").await.is_empty());
    drop(agents);
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b26_an_agent_that_drains_is_dialled_only_where_there_is_no_other() {
    for strategies in ["destHost", "default"] {
        let cluster = Cluster::builder().server_flag("proxy-strategies", strategies).start().await;
        let goes = stock_agent(&cluster, "goes", "ipv4=127.0.0.3&ipv4=127.0.0.4").await;
        let stays = stock_agent(&cluster, "stays", "ipv4=127.0.0.3").await;
        cluster.server.wait_for_tunnels(2).await;
        let both = [("goes", &goes), ("stays", &stays)];
        goes.drain().await;
        wait_for("the server to have heard of it", async || {
            match who(&cluster, &both, "127.0.0.3:1").await {
                asked if asked == ["stays"] => Ok(()),
                asked => Err(format!("{asked:?}")),
            }
        })
        .await;
        for _ in 0..10 {
            assert_eq!(who(&cluster, &both, "127.0.0.3:1").await, ["stays"]);
        }
        if strategies == "destHost" {
            assert_eq!(who(&cluster, &both, "127.0.0.4:1").await, ["goes"], "other hosts are not concerned");
        }
        drop(stays);
        cluster.server.wait_for_tunnels(1).await;
        assert_eq!(who(&cluster, &[("goes", &goes)], "127.0.0.3:1").await, ["goes"]);
        drop(goes);
        cluster.server.wait_for_tunnels(0).await;
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b27_agents_connections_and_their_lives_are_counted() {
    let flag = "default,destHost,defaultRoute";
    let cluster = Cluster::builder().server_flag("proxy-strategies", flag).start().await;
    let server = &cluster.server;
    let value = async |name: &str| {
        let name = format!("konnectivity_network_proxy_server_{name}");
        server.metrics().await.value(&name)
    };
    let backends = async || {
        let metrics = server.metrics().await;
        ["default", "destHost", "defaultRoute"].map(|strategy| {
            let label = format!("proxy_strategy=\"{strategy}\"");
            metrics.sum("konnectivity_network_proxy_server_ready_backends", &[&label])
        })
    };
    assert_eq!((backends().await, value("ready_backend_connections").await), ([0; 3], 0));
    let plain = stock_agent(&cluster, "plain", "").await;
    let named = stock_agent(&cluster, "named", "ipv4=127.0.0.3&default-route=true").await;
    server.wait_for_tunnels(2).await;
    assert_eq!((backends().await, value("ready_backend_connections").await), ([2, 1, 1], 2));

    let echo = Target::echo([127, 0, 0, 3].into()).await;
    let mut open = Vec::new();
    for (frontend, established) in FRONTENDS.into_iter().zip(1..) {
        let mut connection = server.connect(frontend, &echo).await;
        ping(&mut connection).await;
        open.push(connection);
        assert_eq!(value("established_connections").await, established);
    }
    assert_eq!(value("connection_duration_seconds_count").await, 0);
    drop(open);
    server.wait_until_idle().await;
    assert_eq!(value("established_connections").await, 0);
    assert_eq!(value("connection_duration_seconds_count").await, 2);
    for agent in [plain, named] {
        agent.wait_until_idle().await;
    }
    server.wait_for_tunnels(0).await;
    assert_eq!(backends().await, [0; 3]);
    cluster.finish().await;
}

/// A stock agent drops all its connections on GOAWAY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_agent_is_not_sent_away_for_its_pings_nor_by_a_drain() {
    let cluster = Cluster::builder().server_flag("graceful-shutdown-timeout", "30s").start().await;
    let mut agent = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(1).await;
    for _ in 0..20 {
        within("a pong", agent.ping()).await.unwrap();
    }
    let mut kept = connected(&cluster, Frontend::GrpcUnix, &mut agent, 1).await;
    cluster.server.drain();
    wait_for("the server to drain", async || match cluster.server.readiness().await.unwrap() {
        (500, text) if text.contains("draining") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for round in 0..20 {
        assert!(!agent.is_told_to_go().await, "after {round} rounds");
        agent.data(1, &[round]).await;
        assert_eq!(within("a byte", kept.read_u8()).await.unwrap(), round);
    }
    kept.close().await.unwrap();
    agent.call.expect(Packet::CloseRequest { connect_id: 1 }).await;
    agent.closed(1).await;
    cluster.server.ended(Duration::from_secs(10)).await;
    panics::assert_none();
}

/// Both kinds of agents on one server, as during a migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_agents_and_ours_share_a_server() {
    let cluster = Cluster::on_both_links().await;
    let stock = stock_agent(&cluster, "agent-stock", "ipv4=127.0.0.3").await;
    cluster.server.wait_for_tunnels(3).await;
    for ip in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]] {
        let echo = Target::echo(ip.into()).await;
        for frontend in Frontend::ALL {
            let mut connection = cluster.server.connect(frontend, &echo).await;
            ping(&mut connection).await;
            connection.close().await.unwrap();
        }
    }
    assert_eq!(stock.dials(), 4);
    stock.wait_until_idle().await;
    cluster.finish().await;
}
