//! Bytes that wait for a receiver, and stalls.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_tests::{
    Cluster, Frontend, LINKS, Server, ServerSpec, Target, node, payload, spawn, wait_for, wait_within, within,
};

use crate::wait_for_samples;

/// The time until a connection is stalled, with a margin for a busy machine.
const STALLED: Duration = Duration::from_secs(30);

fn full(connect: i64, proxy: i64) -> [(&'static str, i64); 2] {
    [("{service_method=\"Connect\"}", connect), ("{service_method=\"Proxy\"}", proxy)]
}

/// Waits until the server counts so many stalled connections, up and down.
async fn wait_for_stalls(server: &Server, wanted: [i64; 2]) {
    wait_within(STALLED, &format!("{wanted:?} stalls"), async || {
        let metrics = server.metrics().await;
        let stalled = ["direction=\"up\"", "direction=\"down\""]
            .map(|direction| metrics.sum("tunnel_server_stalled_connections", &[direction]));
        if stalled == wanted { Ok(()) } else { Err(metrics.show("tunnel_server_stall")) }
    })
    .await;
}

/// The gauge is above 0 while an agent hangs, and 0 afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_that_take_nothing_show_as_long_as_they_do() {
    let cluster = Cluster::on_both_links().await;
    let (mut idle, mut writers, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for link in LINKS {
        // Clients of this target do not read.
        let flood = Target::floods(node(link)).await;
        idle.push(cluster.server.connect(Frontend::ConnectUnix, &flood).await);
        idle.push(cluster.server.connect(Frontend::GrpcUnix, &flood).await);
        // This target does not read.
        let stalls = Target::stalls(node(link)).await;
        for frontend in [Frontend::ConnectUnix, Frontend::GrpcUnix] {
            let mut connection = cluster.server.connect(frontend, &stalls).await;
            writers.push(spawn(async move {
                let block = vec![0x33; 32 * 1024];
                // Runs until the test ends it.
                while connection.write_all(&block).await.is_ok() {}
            }));
        }
        targets.push((flood, stalls));
    }
    // Four downloads; of the uploads only the gRPC ones have such a queue.
    wait_for_samples(&cluster.server, "full_receive_channels", &full(4, 2)).await;
    wait_for_stalls(&cluster.server, [4, 4]).await;
    let metrics = cluster.server.metrics().await;
    for frontend in ["connect", "grpc"] {
        for link in LINKS {
            for direction in ["up", "down"] {
                let labels = [
                    format!("frontend=\"{frontend}\""),
                    format!("link=\"{}\"", link.label()),
                    format!("direction=\"{direction}\""),
                ];
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                assert_eq!(metrics.sum("tunnel_server_stalls_total", &labels), 1, "{labels:?}");
            }
        }
    }
    // Each agent sees two targets that do not read, and two clients beyond the server.
    for agent in &cluster.agents {
        wait_within(STALLED, "the agent's stalls", async || {
            match agent.metrics().await.sum("tunnel_agent_stalled_connections", &[]) {
                4 => Ok(()),
                other => Err(format!("{other} stalled")),
            }
        })
        .await;
    }
    drop((idle, writers, targets));
    wait_for_samples(&cluster.server, "full_receive_channels", &full(0, 0)).await;
    wait_for_stalls(&cluster.server, [0, 0]).await;
    let metrics = cluster.server.metrics().await;
    let waits = "konnectivity_network_proxy_server_frontend_write_duration_seconds_count";
    assert!(metrics.value(waits) >= 4, "{}", metrics.show("konnectivity_network_proxy_server_frontend"));
    cluster.finish().await;
}

/// Three downloads that their clients do not read.
async fn stalled(server: &Server, flood: &Target) -> Vec<Connection> {
    let mut connections = Vec::new();
    for frontend in [Frontend::ConnectUnix, Frontend::GrpcUnix, Frontend::ConnectMtls] {
        connections.push(server.connect(frontend, flood).await);
    }
    connections
}

/// Waits until at least so many bytes are kept for stalled connections.
async fn wait_for_kept(server: &Server, least: i64) {
    wait_within(STALLED, &format!("{least} bytes to be kept"), async || {
        let kept = server.metrics().await.value("tunnel_server_stalled_bytes");
        if kept >= least { Ok(()) } else { Err(format!("{kept} bytes")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_for_receivers_that_take_nothing_shows_as_long_as_it_is() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let flood = Target::floods(node(link)).await;
        let connections = stalled(&cluster.server, &flood).await;
        // On h2 the window is 768 KiB, and WINDOW_UPDATE is sent for halves of it.
        let each = if link == Link::Quic { 4 << 20 } else { 384 << 10 };
        wait_for_kept(&cluster.server, 3 * each).await;
        drop((connections, flood));
        cluster.server.wait_until_idle().await;
        assert_eq!(cluster.server.metrics().await.value("tunnel_server_stalled_bytes"), 0);
        cluster.finish().await;
    }
}

/// Each connection keeps its window, and less than a third of that more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_have_stood_still_for_the_longest_go_when_too_much_is_kept() {
    let limit = (12_i64 << 20).to_string();
    let server = ServerSpec::new("server").flag("max-stalled-memory", &limit);
    let cluster = Cluster::builder().server(server).agent_on(Link::Quic).start().await;
    let flood = Target::floods(node(Link::Quic)).await;
    let echo = Target::echo(node(Link::Quic)).await;
    let mut idle = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    let old = stalled(&cluster.server, &flood).await;
    wait_for_kept(&cluster.server, 9 << 20).await;
    let new = stalled(&cluster.server, &flood).await;
    wait_within(STALLED, "the end of the older ones", async || {
        let metrics = cluster.server.metrics().await;
        match metrics.sum("tunnel_server_connections_ended_total", &["why=\"overflow\""]) {
            3 => Ok(()),
            _ => Err(metrics.show("tunnel_server")),
        }
    })
    .await;
    for mut connection in old {
        // Bytes that it has not read may still come; on CONNECT over Unix a reset cannot
        // be told from an end.
        let _ = within("the end of an older one", payload::read_all(&mut connection)).await;
    }
    wait_for_kept(&cluster.server, 9 << 20).await;
    let mut much = vec![0; 24 << 20];
    for mut connection in new {
        within("a newer one that reads again", connection.read_exact(&mut much)).await.unwrap();
    }
    payload::write(&mut idle, b"x").await.unwrap();
    assert_eq!(within("an echo", idle.read_u8()).await.unwrap(), b'x');
    drop((idle, flood));
    cluster.finish().await;
}

/// Writes that are taken at once are not measured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_nobody_waits_for_are_not_in_the_histogram() {
    let cluster = Cluster::on_both_links().await;
    for link in LINKS {
        let echo = Target::echo(node(link)).await;
        for frontend in Frontend::ALL {
            let mut connection = cluster.server.connect(frontend, &echo).await;
            for _ in 0..20 {
                payload::write(&mut connection, b"ping").await.unwrap();
                let mut pong = [0; 4];
                within("an echo", tokio::io::AsyncReadExt::read_exact(&mut connection, &mut pong))
                    .await
                    .unwrap();
            }
            connection.close().await.unwrap();
        }
    }
    wait_for("the end of all", async || {
        let metrics = cluster.server.metrics().await;
        let bytes = metrics.sum("tunnel_server_bytes_total", &["direction=\"down\""]);
        if bytes == 8 * 80 { Ok(()) } else { Err(metrics.show("tunnel_server_bytes")) }
    })
    .await;
    wait_for_samples(&cluster.server, "frontend_write_duration_seconds_count", &[("", 0)]).await;
    cluster.finish().await;
}
