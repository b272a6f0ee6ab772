//! Dials that end without a connection: no agent, a client that leaves, an agent that takes none.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tunnel_client::Connection;
use tunnel_proto::packet::Packet;
use tunnel_tests::stock::StockAgent;
use tunnel_tests::{
    Answer, Cluster, FakeAgent, Frontend, LINKS, Target, hello, node, promptly, wait_for, within,
};

use crate::ways::{FRONTENDS, Way, client_call, connected, dialing, imagined, ping};
use crate::ways::{scripted, scripted_agent, stock_agent, wait_for_dial_failures};

/// Waits until the server has no dial under way.
async fn no_dial_pending(cluster: &Cluster) {
    wait_for("no pending dial", async || match cluster.server.metrics().await {
        metrics if metrics.value("tunnel_server_pending_dials") == 0 => Ok(()),
        metrics => Err(metrics.show("tunnel_server_pending")),
    })
    .await;
}

/// Fills the window of an agent's call with the bytes of its connection 1.
async fn fill_window(cluster: &Cluster, agent: &mut StockAgent) -> Connection {
    let mut upload = connected(cluster, Frontend::ConnectUnix, agent, 1).await;
    let block = vec![0; 16 * 1024];
    // A full window takes nothing until the agent reads; on a busy machine a write may wait as well.
    let mut waited = 0;
    while waited < 4 {
        match tokio::time::timeout(Duration::from_millis(150), upload.write(&block)).await {
            Ok(taken) => {
                taken.unwrap();
                waited = 0;
            }
            Err(_) => waited += 1,
        }
    }
    upload
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b17_without_an_agent_the_answer_is_no_agent_available() {
    let cluster = Cluster::builder().start().await;
    let (_channel, mut call) = client_call(&cluster).await;
    let request = Packet::DialRequest { protocol: "tcp".into(), address: imagined(80), random: i64::MAX };
    call.packet(&request).await;
    let error = "No agent available".to_owned();
    call.expect(Packet::DialResponse { error, connect_id: 0, random: i64::MAX }).await;
    wait_for_dial_failures(&cluster.server, "no_agent", 1).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b06_b18_a_dial_that_is_cancelled_is_closed_and_its_late_answer_too() {
    let (cluster, mut agent) = scripted().await;
    let target = imagined(80);
    for way in ["cancelled", "dropped", "closed"] {
        let (channel, mut call) = client_call(&cluster).await;
        let dial = Packet::DialRequest { protocol: "tcp".into(), address: target.clone(), random: 5 };
        call.packet(&dial).await;
        let (_, random) = agent.dialed().await;
        match way {
            "cancelled" => call.packet(&Packet::CloseDial { random: 5 }).await,
            "dropped" => drop((call, channel)),
            _ => call.say.cancel(),
        }
        agent.call.expect(Packet::CloseDial { random }).await;
        // Stock agents do not know that packet, and answer when they have dialled.
        agent.answer(random, 17).await;
        agent.call.expect(Packet::CloseRequest { connect_id: 17 }).await;
        agent.closed(17).await;
        no_dial_pending(&cluster).await;
    }
    // On CONNECT the client only closes its socket.
    let dial = dialing(&cluster, Frontend::ConnectUnix, target);
    let (_, random) = agent.dialed().await;
    drop(dial);
    agent.call.expect(Packet::CloseDial { random }).await;
    agent.refuse(random, "dial tcp 127.0.0.3:80: i/o timeout").await;
    wait_for_dial_failures(&cluster.server, "frontend_close", 4).await;
    cluster.finish().await;
}

/// The same on our own links: an agent that answers nothing learns of the cancellation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b06_a_cancelled_dial_is_forgotten() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let silent = hello("silent", &format!("ipv4={}", node(link)));
        let agent = FakeAgent::join(&cluster, link, silent, Answer::Silence).await;
        cluster.server.wait_for_tunnels(1).await;
        for (frontend, asked) in FRONTENDS.into_iter().zip(1..) {
            let dial = dialing(&cluster, frontend, format!("{}:80", node(link)));
            wait_for("the dial", async || match agent.dials() {
                dials if dials == asked => Ok(()),
                dials => Err(format!("{dials} dials")),
            })
            .await;
            drop(dial);
            no_dial_pending(&cluster).await;
        }
        wait_for_dial_failures(&cluster.server, "frontend_close", 2).await;
        cluster.finish().await;
    }
}

/// An agent that has stopped reading, dials included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_an_agent_that_takes_no_dial_costs_its_limit_and_no_more() {
    let cluster = Cluster::builder().server_flag("backend-dial-timeout", "1s").start().await;
    let mut agent = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(1).await;
    let upload = fill_window(&cluster, &mut agent).await;

    let target = imagined(80);
    let refusal = cluster.server.refusal(Frontend::ConnectUnix, &target);
    let (status, text) = promptly(Duration::from_secs(4), refusal).await.expect("the end of the dial");
    assert_eq!((status, text.contains("timeout")), (Some(504), true), "{text}");
    let (_, text) = cluster.server.refusal(Frontend::GrpcUnix, &imagined(80)).await;
    assert!(text.contains("timeout"), "{text}");
    no_dial_pending(&cluster).await;
    wait_for_dial_failures(&cluster.server, "backend_dial_timeout", 2).await;

    // The agent works again once it reads. Dials that were given up leave nothing
    // behind: the agent gets neither of DIAL_REQ and DIAL_CLS, or both.
    drop(upload);
    let mut open = Vec::new();
    loop {
        let packet = within("the rest", agent.call.next()).await.unwrap();
        if packet == (Packet::CloseRequest { connect_id: 1 }) {
            break;
        }
        if let Packet::DialRequest { random, .. } = packet {
            open.push(random);
        } else if let Packet::CloseDial { random } = packet {
            open.retain(|dial| *dial != random);
        } else {
            assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
        }
    }
    assert_eq!(open, [0; 0]);
    agent.closed(1).await;
    connected(&cluster, Frontend::ConnectUnix, &mut agent, 2).await.close().await.unwrap();
    agent.call.expect(Packet::CloseRequest { connect_id: 2 }).await;
    agent.closed(2).await;
    cluster.finish().await;
}

/// Konnectivity gives such an agent up for good; here others are preferred while the
/// agent reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_an_agent_that_takes_no_dial_is_passed_over_where_there_is_another() {
    let cluster = Cluster::builder().start().await;
    let mut stuck = scripted_agent(&cluster, "stuck").await;
    cluster.server.wait_for_tunnels(1).await;
    let upload = fill_window(&cluster, &mut stuck).await;

    let node = Way::Stock.node();
    let healthy = stock_agent(&cluster, "healthy", &format!("ipv4={node}")).await;
    cluster.server.wait_for_tunnels(2).await;
    let echo = Target::echo(node).await;
    let dials = async {
        for _ in 0..20 {
            for frontend in FRONTENDS {
                let mut connection = cluster.server.connect(frontend, &echo).await;
                ping(&mut connection).await;
                connection.close().await.unwrap();
            }
        }
    };
    // The first dial may have to find that out; the others know.
    promptly(Duration::from_secs(15), dials).await.expect("forty dials");
    assert_eq!(healthy.dials(), 40);

    // The agent has seen none of these dials, and is asked again once it reads.
    drop(upload);
    loop {
        let packet = within("the rest", stuck.call.next()).await.unwrap();
        if packet == (Packet::CloseRequest { connect_id: 1 }) {
            break;
        }
        assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
    }
    stuck.closed(1).await;
    let target = echo.to_string();
    for round in 0.. {
        assert!(round < 100, "it is never asked again");
        let dial = cluster.server.dial(Frontend::ConnectUnix, &target);
        tokio::pin!(dial);
        tokio::select! {
            _ = &mut dial => {}
            (_, random) = stuck.dialed() => {
                stuck.refuse(random, "no").await;
                assert!(within("an answer", dial).await.is_err());
                break;
            }
        }
    }
    cluster.finish().await;
}
