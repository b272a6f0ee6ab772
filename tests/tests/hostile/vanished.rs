//! Peers that vanish with data under way to them: their kernel drops every packet of theirs.

use std::sync::Arc;
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::interval;
use tunnel::transport::Link;
use tunnel_tests::raw::tls;
use tunnel_tests::{AgentSpec, Cluster, Frontend, ServerSpec, Target, Who, node, within};

/// `BPF_RET | BPF_K` with 0, which drops a packet (linux/bpf_common.h).
const DROP: SockFilter = SockFilter::new(6, 0, 0, 0);

fn vanish(tcp: &TcpStream) {
    SockRef::from(tcp).attach_filter(&[DROP]).unwrap();
}

#[tokio::test]
async fn who_vanishes_with_data_under_way_is_given_up_after_the_time_of_the_flag() {
    let node = node(Link::Quic);
    let server = ServerSpec::new("server").flag("ack-timeout", "5s");
    let agent = AgentSpec::new("agent", Link::Quic, node).flag("ack-timeout", "5s");
    let cluster = Cluster::builder().server(server).agent(agent).start().await;

    let vanishes = Target::new(node, async |tcp| {
        vanish(&tcp);
        std::future::pending().await
    })
    .await;
    let mut client = cluster.server.connect(Frontend::ConnectUnix, &vanishes).await;
    let target_is_given_up = async {
        let mut pace = interval(Duration::from_millis(100));
        // One byte before the filter is there may be acknowledged.
        while client.write_all(b"x").await.is_ok() {
            tokio::select! {
                _ = pace.tick() => {}
                end = client.read_u8() => {
                    assert!(end.is_err(), "the target said nothing");
                    break;
                },
            }
        }
    };

    let floods = Target::floods(node).await;
    let config = Arc::new(cluster.pki.client(Who::Client));
    let mut leaves = tls(&cluster.server, config).await.unwrap();
    leaves
        .write_all(format!("CONNECT {floods} HTTP/1.1\r\nHost: {floods}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    leaves.read_exact(&mut [0; 1000]).await.unwrap();
    vanish(leaves.get_ref().0);

    within("the end of a vanished target's connection", target_is_given_up).await;
    cluster.finish().await;
    drop(leaves);
}
