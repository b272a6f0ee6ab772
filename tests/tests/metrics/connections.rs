//! Connections: gauges fall again, and durations are counted once. Behaviours b05 and
//! b27, and defect W17.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tunnel::transport::Link;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{
    Cluster, Frontend, Gate, LINKS, Server, Target, for_each_combination, node, spawn, wait_for, within,
};

use crate::{wait_for_samples, wait_for_samples_of};

/// Waits until the server's gauges of open things are 0.
async fn wait_until_nothing_is_open(server: &Server) {
    for name in ["established_connections", "http_connections", "pending_backend_dials"] {
        wait_for_samples(server, name, &[("", 0)]).await;
    }
    for name in ["grpc_connections", "full_receive_channels"] {
        let none = [("{service_method=\"Connect\"}", 0), ("{service_method=\"Proxy\"}", 0)];
        wait_for_samples(server, name, &none).await;
    }
    wait_for("nothing of ours to be open", async || {
        let metrics = server.metrics().await;
        let open = ["connections", "streams", "stalled_connections"]
            .map(|name| metrics.sum(&format!("tunnel_server_{name}"), &[]));
        if open == [0, 0, 0] { Ok(()) } else { Err(format!("{open:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_open_until_its_client_left_and_lasts_once() {
    let cluster = Cluster::on_both_links().await;
    let (mut connections, mut targets) = (Vec::new(), Vec::new());
    for link in LINKS {
        let echo = Target::echo(node(link)).await;
        for frontend in Frontend::ALL {
            let mut connection = cluster.server.connect(frontend, &echo).await;
            payload::write(&mut connection, b"x").await.unwrap();
            within("an echo", connection.read_u8()).await.unwrap();
            connections.push(connection);
        }
        connections.push(cluster.server.connect(Frontend::ConnectUnix, &echo).await);
        // Their connections end with them.
        targets.push(echo);
    }
    wait_for_samples(&cluster.server, "established_connections", &[("", 10)]).await;
    wait_for_samples(&cluster.server, "http_connections", &[("", 6)]).await;
    let calls = [("{service_method=\"Connect\"}", 0), ("{service_method=\"Proxy\"}", 4)];
    wait_for_samples(&cluster.server, "grpc_connections", &calls).await;
    wait_for_samples(&cluster.server, "pending_backend_dials", &[("", 0)]).await;
    wait_for_samples(&cluster.server, "dial_duration_seconds_count", &[("", 10)]).await;
    wait_for_samples(&cluster.server, "connection_duration_seconds_count", &[("", 0)]).await;
    for agent in &cluster.agents {
        wait_for_samples_of(agent, "open_endpoint_connections", &[("", 5)]).await;
        wait_for_samples_of(agent, "dial_duration_seconds_count", &[("", 5)]).await;
    }
    // Half of them in order; a drop breaks the others.
    for (number, connection) in connections.into_iter().enumerate() {
        if number % 2 == 0 {
            connection.close().await.unwrap();
        }
    }
    wait_until_nothing_is_open(&cluster.server).await;
    wait_for_samples(&cluster.server, "connection_duration_seconds_count", &[("", 10)]).await;
    assert_eq!(cluster.server.metrics().await.sum("tunnel_server_connections_ended_total", &[]), 10);
    for agent in &cluster.agents {
        wait_for_samples_of(agent, "open_endpoint_connections", &[("", 0)]).await;
    }
    cluster.finish().await;
}

/// b05.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_answers_that_are_cancelled_leave_nothing_open() {
    const SLOW: Header = Header { seed: 3, len: 64 * 1024 };
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let slow = Target::gated(node(link), Gate::default()).await;
        let mut connections = Vec::new();
        for number in 0..50 {
            let frontend = Frontend::ALL[number % Frontend::ALL.len()];
            let mut connection = cluster.server.connect(frontend, &slow).await;
            payload::write(&mut connection, &SLOW.encode()).await.unwrap();
            connections.push(connection);
        }
        for connection in &mut connections {
            within("the first half", connection.read_u8()).await.unwrap();
        }
        wait_for_samples_of(&cluster.agents[0], "open_endpoint_connections", &[("", 50)]).await;
        wait_for_samples(&cluster.server, "established_connections", &[("", 50)]).await;
        drop(connections);
        wait_for_samples_of(&cluster.agents[0], "open_endpoint_connections", &[("", 0)]).await;
        wait_until_nothing_is_open(&cluster.server).await;
        wait_for_samples(&cluster.server, "connection_duration_seconds_count", &[("", 50)]).await;
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_an_agent_that_dies_are_closed_and_counted() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let echo = Target::echo(node(link)).await;
        let mut connections = Vec::new();
        for frontend in Frontend::ALL {
            connections.push(cluster.server.connect(frontend, &echo).await);
        }
        wait_for_samples(&cluster.server, "established_connections", &[("", 4)]).await;
        cluster.agents[0].kill().await;
        wait_until_nothing_is_open(&cluster.server).await;
        wait_for_samples(&cluster.server, "connection_duration_seconds_count", &[("", 4)]).await;
        wait_for_samples(&cluster.server, "ready_backend_connections", &[("", 0)]).await;
        let labels = [format!("link=\"{}\"", link.label()), "how=\"far_broken\"".to_owned()];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let metrics = cluster.server.metrics().await;
        assert_eq!(metrics.sum("tunnel_server_connections_ended_total", &labels), 4);
    }
}

/// A call counts before its dial.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_counts_from_its_beginning() {
    let cluster = Cluster::on(Link::Quic).await;
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    let open = |n| [("{service_method=\"Connect\"}", 0), ("{service_method=\"Proxy\"}", n)];
    let (mut one, two) = (channel.call().await, channel.call().await);
    wait_for_samples(&cluster.server, "grpc_connections", &open(2)).await;
    one.finish();
    one.end().await;
    wait_for_samples(&cluster.server, "grpc_connections", &open(1)).await;
    drop((two, channel));
    wait_until_nothing_is_open(&cluster.server).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_ends_are_told_by_frontend_and_link() {
    const SENT: usize = 100_000;
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let sink = Target::sink(node(link)).await;
        let mut connection = cluster.server.connect(frontend, &sink).await;
        let header = Header { seed: 9, len: SENT };
        payload::write(&mut connection, &header.with_payload()).await.unwrap();
        connection.close().await.unwrap();
        sink.report(9).await;
    })
    .await;
    cluster.server.wait_until_idle().await;
    let metrics = cluster.server.metrics().await;
    let header = Header { seed: 9, len: SENT }.with_payload().len() - SENT;
    for link in LINKS {
        let link = format!("link=\"{}\"", link.label());
        for frontend in ["frontend=\"connect\"", "frontend=\"grpc\""] {
            let up = metrics.sum("tunnel_server_bytes_total", &[&link, frontend, "direction=\"up\""]);
            assert_eq!(up, 2 * (SENT + header) as i64, "{link} {frontend}");
            assert_eq!(metrics.sum("tunnel_server_connections_ended_total", &[&link, frontend]), 2);
        }
    }
    assert_eq!(metrics.sum("tunnel_server_bytes_total", &["direction=\"down\""]), 0);
    for (agent, link) in cluster.agents.iter().zip(LINKS) {
        agent.wait_until_idle().await;
        let link = format!("link=\"{}\"", link.label());
        let metrics = agent.metrics().await;
        let up = metrics.sum("tunnel_agent_bytes_total", &[&link, "direction=\"up\""]);
        assert_eq!(up, 4 * (SENT + header) as i64, "{link}");
        assert_eq!(metrics.sum("tunnel_agent_connections_ended_total", &[&link]), 4);
    }
    cluster.finish().await;
}

/// As a kube-apiserver, which closes first while the kubelet's TLS still says goodbye.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_first_ends_clean_on_every_frontend_and_link() {
    const EACH: i64 = 25;
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let listener = TcpListener::bind((node(link), 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let _target = spawn(async move {
            let mut goodbyes = tokio::task::JoinSet::new();
            while let Ok((mut tcp, _)) = listener.accept().await {
                goodbyes.spawn(async move {
                    while tcp.read_u8().await.is_ok() {}
                    // The client has gone before the last of them.
                    for _ in 0..20 {
                        let _ = tcp.write_all(b"close_notify").await;
                        tokio::task::yield_now().await;
                    }
                });
            }
        });
        let labels = [
            format!("frontend=\"{}\"", if frontend.is_grpc() { "grpc" } else { "connect" }),
            format!("link=\"{}\"", link.label()),
        ];
        let ended = async |how: Option<&str>| {
            let how = how.map(|how| format!("how=\"{how}\""));
            let labels: Vec<_> = labels.iter().chain(&how).map(String::as_str).collect();
            cluster.server.metrics().await.sum("tunnel_server_connections_ended_total", &labels)
        };
        let (before, clean) = (ended(None).await, ended(Some("clean")).await);
        for _ in 0..EACH {
            let mut connection = cluster.server.connect(frontend, target).await;
            payload::write(&mut connection, b"bye").await.unwrap();
            connection.close().await.unwrap();
        }
        wait_for("all ends", async || match ended(None).await - before {
            EACH => Ok(()),
            found => Err(found.to_string()),
        })
        .await;
        let shown = cluster.server.metrics().await.show("tunnel_server_connections_ended_total");
        assert_eq!(ended(Some("clean")).await - clean, EACH, "{frontend:?} {link:?}: {shown}");
    })
    .await;
    cluster.finish().await;
}
