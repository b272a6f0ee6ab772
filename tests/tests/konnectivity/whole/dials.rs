//! Dials that fail, clients that leave, and the counts of failures.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;
use tunnel_tests::{Cluster, Frontend, Target, get, payload, promptly, spawn, within};

use super::{PAGE, leave};
use crate::ways::wait_for_dial_failures;
use crate::ways::{FRONTENDS, Fleet, WAYS, Way, assert_endpoint_failures, client_call, on_every_way, ping};

/// Fails unless two dials are counted as answered with an error, and by agents of ours
/// for this reason.
async fn assert_two_failures(fleet: &Fleet, reason: &str) {
    wait_for_dial_failures(fleet.server(), "error_response", 2).await;
    for agent in &fleet.cluster.agents {
        assert_endpoint_failures(agent, reason, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b03_b08_a_target_that_refuses() {
    on_every_way(async |way, fleet| {
        let nobody = Target::nobody(way.node());
        for frontend in FRONTENDS {
            let (status, text) = fleet.server().refusal(frontend, &nobody.to_string()).await;
            assert_eq!(text, format!("dial tcp {nobody}: connect: connection refused"));
            assert_eq!(status, (!frontend.is_grpc()).then_some(502));
        }
        assert_two_failures(&fleet, "unknown").await;
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b08_a_name_that_nobody_knows() {
    for way in WAYS {
        let mut builder = Cluster::builder().server_flag("proxy-strategies", "default");
        if let Way::Ours(link) = way {
            builder = builder.agent_on(link);
        }
        let cluster = builder.start().await;
        let mut fleet = Fleet { cluster, stock: None, node: way.node() };
        if way == Way::Stock {
            fleet.start_agent(way).await;
        }
        fleet.server().wait_for_tunnels(1).await;
        for frontend in FRONTENDS {
            let (status, text) = fleet.server().refusal(frontend, "no-such-host.invalid:80").await;
            // The error of a machine without DNS.
            let text = text.replace("server misbehaving", "no such host");
            assert!(text.starts_with("dial tcp: lookup no-such-host.invalid"), "{way:?}: {text}");
            assert!(text.ends_with("no such host"), "{way:?}: {text}");
            assert_eq!(status, (!frontend.is_grpc()).then_some(502), "{way:?}");
        }
        assert_two_failures(&fleet, "unknown").await;
        fleet.finish().await;
    }
}

/// Runs all ways at the same time, since each takes the agent's whole limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b04_a_target_that_does_not_answer_is_given_up_after_five_seconds() {
    let give_up = async |way: Way| {
        let fleet = Fleet::on(way).await;
        let hole = Target::black_hole(way.node()).await;
        let begin = Instant::now();
        let target = hole.to_string();
        let refusals = async {
            tokio::join!(
                fleet.server().refusal(Frontend::ConnectUnix, &target),
                fleet.server().refusal(Frontend::GrpcUnix, &target)
            )
        };
        let refusals = promptly(Duration::from_secs(8), refusals).await;
        let text = format!("dial tcp {hole}: i/o timeout");
        assert_eq!(refusals, Some(((Some(504), text.clone()), (None, text))), "{way:?}");
        assert!(begin.elapsed().as_secs_f64() > 4.5, "{way:?}: {:?}", begin.elapsed());
        assert_two_failures(&fleet, "timeout").await;
        fleet.finish().await;
    };
    let [quic, h2, stock] = WAYS.map(give_up);
    tokio::join!(quic, h2, stock);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b16_clean_work_counts_no_failure() {
    on_every_way(async |way, fleet| {
        let echo = Target::echo(way.node()).await;
        for frontend in FRONTENDS {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            ping(&mut connection).await;
            leave(frontend, connection).await;
        }
        fleet.server().wait_until_idle().await;
        let metrics = fleet.server().metrics().await;
        let failed = metrics.sum("tunnel_server_dials_total", &[])
            - metrics.sum("tunnel_server_dials_total", &["outcome=\"connected\""]);
        assert_eq!(failed, 0, "{}", metrics.show("tunnel_server_dials"));
        // Konnectivity has no series without a failure, not even one of 0.
        let (_, page) = get(fleet.server().health, "/metrics").await.unwrap();
        assert!(!page.contains("konnectivity_network_proxy_server_dial_failure_count{"), "{page}");
        for agent in &fleet.cluster.agents {
            let (_, page) = get(agent.health, "/metrics").await.unwrap();
            assert!(
                !page.contains("konnectivity_network_proxy_agent_endpoint_dial_failure_total{"),
                "{page}"
            );
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b05_fifty_clients_that_leave_while_they_wait_leave_nothing() {
    on_every_way(async |way, fleet| {
        // Reads the request and never answers.
        let slow = Target::new(way.node(), async |mut socket| {
            while socket.read(&mut [0; 1024]).await? > 0 {}
            Ok(())
        })
        .await;
        for frontend in FRONTENDS {
            let mut waiting = Vec::new();
            for _ in 0..50 {
                let mut connection = fleet.server().connect(frontend, &slow).await;
                payload::write(&mut connection, PAGE.0).await.unwrap();
                waiting.push(spawn(async move { connection.read_u8().await }));
            }
            // The requests end with their tasks, each at its own moment.
            drop(waiting);
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b05_a_client_that_gives_up_after_its_deadline_is_felt_by_its_target() {
    on_every_way(async |way, fleet| {
        let (ended, mut seen) = tokio::sync::watch::channel(0_u32);
        let target = Target::new(way.node(), move |mut socket| {
            let ended = ended.clone();
            async move {
                let mut all = Vec::new();
                let _ = socket.read_to_end(&mut all).await;
                ended.send_modify(|count| *count += 1);
                Ok(())
            }
        })
        .await;
        for (frontend, count) in FRONTENDS.into_iter().zip(1..) {
            let mut connection = fleet.server().connect(frontend, &target).await;
            payload::write(&mut connection, PAGE.0).await.unwrap();
            let late = tokio::time::timeout(Duration::from_millis(50), connection.read_u8()).await;
            assert!(late.is_err(), "{late:?}");
            drop(connection);
            within("the target to be told", seen.wait_for(|ended| *ended == count)).await.unwrap();
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b07_a_call_that_is_over_before_it_dials_leaves_nothing() {
    on_every_way(async |way, fleet| {
        for _ in 0..20 {
            let (_channel, mut call) = client_call(&fleet.cluster).await;
            call.say.cancel();
        }
        // One more call, cancelled during its connection.
        let echo = Target::echo(way.node()).await;
        let (_channel, mut call) = client_call(&fleet.cluster).await;
        call.dial(&echo.to_string()).await;
        call.say.cancel();
        fleet.cluster.server.wait_until_idle().await;
        assert_eq!(fleet.dials().await, 1);
        fleet.finish().await;
    })
    .await;
}
