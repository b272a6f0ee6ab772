//! Counts of packets of gRPC clients and of konnectivity links.

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tunnel::transport::Link;
use tunnel_proto::packet::Packet;
use tunnel_proto::packet_kind::PacketKind;
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{Cluster, Frontend, Metrics, Target, node, payload, wait_for, within};

use crate::{AGENT, SERVER, wait_for_samples};

/// Packets of a segment, in the order of [`PacketKind::ALL`]: DIAL_REQ, DIAL_RSP,
/// CLOSE_REQ, CLOSE_RSP, DATA, DIAL_CLS, DRAIN, others.
type Counted = [i64; PacketKind::ALL.len()];

fn counted(metrics: &Metrics, segment: &str) -> Counted {
    counted_by(metrics, SERVER, segment)
}

fn counted_by(metrics: &Metrics, program: &str, segment: &str) -> Counted {
    let segment = format!("segment=\"{segment}\"");
    PacketKind::ALL.map(|kind| {
        let kind = format!("packet_type=\"{}\"", kind.label());
        metrics.sum(&format!("{program}_stream_packets_total"), &[&segment, &kind])
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_are_counted_by_kind_and_way() {
    let cluster = Cluster::on(Link::Quic).await;
    let echo = Target::echo(node(Link::Quic)).await;
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    let mut call = channel.call().await;
    let connect_id = call.dial(&echo.to_string()).await;
    for _ in 0..3 {
        call.packet(&Packet::Data { connect_id, data: Bytes::from_static(b"ping") }).await;
        assert!(matches!(call.next().await, Some(Packet::Data { .. })));
    }
    call.packet(&Packet::Unknown(99)).await;
    call.packet(&Packet::CloseRequest { connect_id: -7 }).await;
    assert!(matches!(call.next().await, Some(Packet::CloseResponse { connect_id: -7, .. })));
    call.packet(&Packet::CloseRequest { connect_id }).await;
    assert_eq!(call.end().await.1, 0);
    cluster.server.wait_until_idle().await;

    let metrics = cluster.server.metrics().await;
    assert_eq!(counted(&metrics, "from_client"), [1, 0, 2, 0, 3, 0, 0, 1]);
    assert_eq!(counted(&metrics, "to_client"), [0, 1, 0, 2, 3, 0, 0, 0]);
    assert_eq!(counted(&metrics, "from_agent"), [0; 8], "this agent speaks our protocol");
    assert_eq!(counted(&metrics, "to_agent"), [0; 8]);
    assert!(metrics.samples(&format!("{SERVER}_stream_errors_total")).is_empty());
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_fail_are_counted_by_code() {
    let cluster = Cluster::on(Link::H2).await;
    let echo = Target::echo(node(Link::H2)).await;
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    let canceled = "{code=\"Canceled\",packet_type=\"Unknown\",segment=\"from_client\"}";
    let internal = "{code=\"Internal\",packet_type=\"Unknown\",segment=\"from_client\"}";

    let mut call = channel.call().await;
    call.dial(&echo.to_string()).await;
    drop(call);
    wait_for_samples(&cluster.server, "stream_errors_total", &[(canceled, 1)]).await;

    let mut call = channel.call().await;
    call.dial(&echo.to_string()).await;
    call.message(&[0xff, 0xff, 0xff]).await;
    call.end().await;
    wait_for_samples(&cluster.server, "stream_errors_total", &[(canceled, 1), (internal, 1)]).await;

    // A client that goes, and its connection with it.
    let mut call = channel.call().await;
    call.dial(&echo.to_string()).await;
    drop((channel, call));
    wait_for_samples(&cluster.server, "stream_errors_total", &[(canceled, 2), (internal, 1)]).await;
    cluster.finish().await;
}

/// Both ends of a konnectivity link count the same packets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_a_konnectivity_link_are_counted_at_both_ends() {
    let link = Link::Konnectivity;
    let cluster = Cluster::on(link).await;
    let echo = Target::echo(node(link)).await;
    let calls = [("{service_method=\"Connect\"}", 1), ("{service_method=\"Proxy\"}", 0)];
    wait_for_samples(&cluster.server, "grpc_connections", &calls).await;
    let mut connection = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    for _ in 0..3 {
        payload::write(&mut connection, b"x").await.unwrap();
        within("an echo", connection.read_u8()).await.unwrap();
    }
    connection.close().await.unwrap();
    cluster.server.wait_until_idle().await;
    wait_for("both ends to agree", async || {
        let (server, agent) = (cluster.server.metrics().await, cluster.agents[0].metrics().await);
        for (segment, wanted) in
            [("to_agent", [1, 0, 1, 0, 3, 0, 0, 0]), ("from_agent", [0, 1, 0, 1, 3, 0, 0, 0])]
        {
            let found = [(&server, SERVER), (&agent, AGENT)].map(|(of, name)| counted_by(of, name, segment));
            if found != [wanted; 2] {
                return Err(format!("{segment}: {found:?}"));
            }
        }
        Ok(())
    })
    .await;
    assert_eq!(counted(&cluster.server.metrics().await, "from_client"), [0; 8], "a CONNECT client");
    let bytes = cluster.server.metrics().await.sum("tunnel_server_bytes_total", &["link=\"konnectivity\""]);
    assert_eq!(bytes, 6);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_gone_has_cancelled_its_call() {
    let cluster = Cluster::on(Link::Konnectivity).await;
    cluster.agents[0].kill().await;
    let canceled = "{code=\"Canceled\",packet_type=\"Unknown\",segment=\"from_agent\"}";
    wait_for_samples(&cluster.server, "stream_errors_total", &[(canceled, 1)]).await;
    let calls = [("{service_method=\"Connect\"}", 0), ("{service_method=\"Proxy\"}", 0)];
    wait_for_samples(&cluster.server, "grpc_connections", &calls).await;
}
