//! Client, server and agent together.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tunnel_client::Connection;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::raw::Listener;
use tunnel_tests::{Cluster, Frontend, LINKS, Target, get, many, node, spawn, wait_for, wait_within, within};

use crate::ways::{FRONTENDS, Fleet, WAYS, Way, assert_endpoint_failures, client_call, ended};
use crate::ways::{on_every_way, ping, stock_agent, wait_for_dial_failures};

/// Shorter than every timer: an end within it was noticed, not suspected.
const PROMPT: Duration = Duration::from_secs(3);

/// A request and its answer.
const PAGE: (&[u8], &[u8]) = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
);

/// Answers one request and closes.
async fn page(way: Way) -> Target {
    Target::new(way.node(), async |mut socket| {
        let mut request = vec![0; PAGE.0.len()];
        socket.read_exact(&mut request).await?;
        socket.write_all(PAGE.1).await
    })
    .await
}

async fn get_page(connection: &mut Connection) {
    payload::write(connection, PAGE.0).await.unwrap();
    let answer = within("a page", payload::read_all(connection)).await.unwrap();
    assert_eq!(answer, PAGE.1);
}

async fn download(mut connection: Connection, header: Header) {
    payload::write(&mut connection, &header.encode()).await.unwrap();
    let all = within("a download", payload::read_all(&mut connection)).await.unwrap();
    payload::assert_is(&all, header.seed, header.len);
}

/// Ends a connection as a kube-apiserver does: without a half-close.
async fn leave(frontend: Frontend, connection: Connection) {
    if frontend.is_grpc() {
        connection.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b01_pages_and_large_answers_arrive_whole_also_many_at_once() {
    on_every_way(async |way, fleet| {
        let (page, source) = (page(way).await, Target::source(way.node()).await);
        for frontend in FRONTENDS {
            get_page(&mut fleet.server().connect(frontend, &page).await).await;
            let connection = fleet.server().connect(frontend, &source).await;
            download(connection, Header { seed: 1, len: 20 << 20 }).await;
        }
        let mut tasks = Vec::new();
        for seed in 0..10 {
            let frontend = FRONTENDS[usize::from(seed % 2 == 0)];
            let connection = fleet.server().connect(frontend, &source).await;
            tasks.push(spawn(download(connection, Header { seed, len: 10 << 20 })));
        }
        for task in tasks {
            task.join().await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b01_a_hundred_echoes_at_once_over_two_agents() {
    for way in WAYS {
        let mut builder = Cluster::builder().server_flag("proxy-strategies", "default");
        if let Way::Ours(link) = way {
            for id in ["one", "two"] {
                builder = builder.agent(tunnel_tests::AgentSpec::new(id, link, node(link)));
            }
        }
        let cluster = builder.start().await;
        let mut stock = Vec::new();
        if way == Way::Stock {
            for id in ["one", "two"] {
                stock.push(stock_agent(&cluster, id, "").await);
            }
            cluster.server.wait_for_tunnels(2).await;
        }
        let echo = Target::echo(way.node()).await;
        for frontend in FRONTENDS {
            let endpoint = cluster.server.endpoint(frontend);
            let target = echo.to_string();
            many(100, 100, |seed| {
                let (endpoint, target) = (endpoint.clone(), target.clone());
                async move {
                    let options = tunnel_client::Options::default();
                    let dial = tunnel_client::dial(frontend.protocol(), &endpoint, &target, &options);
                    let mut connection = within("a dial", Box::pin(dial)).await.unwrap();
                    let sent = payload::bytes(seed, 2000);
                    payload::write(&mut connection, &sent).await.unwrap();
                    let mut back = vec![0; sent.len()];
                    within("an echo", connection.read_exact(&mut back)).await.unwrap();
                    payload::assert_is(&back, seed, sent.len());
                    connection.close().await.unwrap();
                }
            })
            .await;
        }
        for agent in &cluster.agents {
            assert!(agent.dials().await > 0, "{} got none of 200 dials", agent.id);
        }
        for agent in &stock {
            assert!(agent.dials() > 0, "one of two stock agents got none of 200 dials");
            agent.wait_until_idle().await;
        }
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b02_a_message_can_be_read_in_parts() {
    on_every_way(async |way, fleet| {
        let echo = Target::echo(way.node()).await;
        for frontend in FRONTENDS {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            payload::write(&mut connection, b"1234567890123456789012345").await.unwrap();
            let mut buffer = [0; 10];
            for (len, part) in [(10, "1234567890"), (10, "1234567890"), (5, "12345")] {
                let n = within("a part", connection.read(&mut buffer)).await.unwrap();
                assert_eq!((n, &buffer[..n]), (len, part.as_bytes()), "{frontend:?}");
            }
            payload::write(&mut connection, b"next").await.unwrap();
            assert_eq!(within("the next", connection.read(&mut buffer)).await.unwrap(), 4);
            leave(frontend, connection).await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b03_b08_a_target_that_refuses() {
    on_every_way(async |way, fleet| {
        let nobody = Target::nobody(way.node()).await;
        for frontend in FRONTENDS {
            let (status, text) = fleet.server().refusal(frontend, &nobody.to_string()).await;
            assert_eq!(text, format!("dial tcp {nobody}: connect: connection refused"));
            assert_eq!(status, (!frontend.is_grpc()).then_some(502));
        }
        wait_for_dial_failures(fleet.server(), "error_response", 2).await;
        for agent in &fleet.cluster.agents {
            assert_endpoint_failures(agent, "unknown", 2).await;
        }
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
        wait_for_dial_failures(fleet.server(), "error_response", 2).await;
        for agent in &fleet.cluster.agents {
            assert_endpoint_failures(agent, "unknown", 2).await;
        }
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
        let (connect, grpc) = tokio::join!(
            fleet.server().refusal(Frontend::ConnectUnix, &target),
            fleet.server().refusal(Frontend::GrpcUnix, &target)
        );
        let text = format!("dial tcp {hole}: i/o timeout");
        assert_eq!((connect, grpc), ((Some(504), text.clone()), (None, text)), "{way:?}");
        let took = begin.elapsed().as_secs_f64();
        assert!((4.5..8.0).contains(&took), "{way:?}: {took} s");
        wait_for_dial_failures(fleet.server(), "error_response", 2).await;
        for agent in &fleet.cluster.agents {
            assert_endpoint_failures(agent, "timeout", 2).await;
        }
        fleet.finish().await;
    };
    let [quic, h2, stock] = WAYS.map(give_up);
    tokio::join!(quic, h2, stock);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b08_connect_is_answered_with_nothing_but_200() {
    on_every_way(async |way, fleet| {
        let page = page(way).await;
        for listener in Listener::BOTH {
            let mut socket = listener.open(fleet.server(), &fleet.cluster.pki).await;
            let head = format!("CONNECT {page} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut answer = [0; 1024];
            let n = within("an answer", socket.read(&mut answer)).await.unwrap();
            assert_eq!(answer[..n], *b"HTTP/1.1 200 Connection Established\r\n\r\n");
            socket.write_all(PAGE.0).await.unwrap();
            let mut all = Vec::new();
            within("a page", socket.read_to_end(&mut all)).await.unwrap();
            assert_eq!(all, PAGE.1);
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b09_an_agent_that_goes_is_noticed_at_once_and_its_successor_used() {
    on_every_way(async |way, mut fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = Vec::new();
        for frontend in FRONTENDS {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            ping(&mut connection).await;
            kept.push(connection);
        }
        fleet.kill_agent().await;
        for connection in &mut kept {
            let over = tokio::time::timeout(PROMPT, ended(connection)).await;
            assert!(over.is_ok(), "not ended after {PROMPT:?}");
        }
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(1).await;
        for frontend in FRONTENDS {
            ping(&mut fleet.server().connect(frontend, &echo).await).await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b10_a_second_agent_of_the_same_id_does_not_break_what_the_first_has() {
    on_every_way(async |way, mut fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = Vec::new();
        for frontend in FRONTENDS {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            ping(&mut connection).await;
            kept.push(connection);
        }
        let first = fleet.stock.take();
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(2).await;
        for frontend in FRONTENDS {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            ping(&mut connection).await;
            kept.push(connection);
        }
        for connection in &mut kept {
            ping(connection).await;
        }
        drop(kept);
        if let Some(first) = &first {
            first.wait_until_idle().await;
        }
        fleet.finish().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_a_server_is_ready_as_soon_as_it_has_an_agent() {
    for way in WAYS {
        let cluster = Cluster::builder().start().await;
        assert_eq!(cluster.server.readiness().await.unwrap().0, 500, "{way:?}");
        let mut fleet = Fleet { cluster, stock: None, node: way.node() };
        fleet.start_agent(way).await;
        fleet.server().wait_for_tunnels(1).await;
        assert_eq!(fleet.server().readiness().await.unwrap(), (200, "ok".to_owned()), "{way:?}");
        fleet.kill_agent().await;
        assert_eq!(fleet.server().readiness().await.unwrap().0, 500, "{way:?}");
        fleet.finish().await;
    }
}

/// Our agent would leave after its drain notice; its open connection keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_an_agent_that_drains_is_dialled_if_it_is_the_only_one() {
    on_every_way(async |way, fleet| {
        let echo = Target::echo(way.node()).await;
        let mut kept = fleet.server().connect(Frontend::ConnectUnix, &echo).await;
        ping(&mut kept).await;
        match &fleet.stock {
            Some(stock) => stock.drain().await,
            None => fleet.cluster.agents[0].drain(),
        }
        for _ in 0..10 {
            for frontend in FRONTENDS {
                ping(&mut fleet.server().connect(frontend, &echo).await).await;
            }
        }
        ping(&mut kept).await;
    })
    .await;
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
async fn b11_an_agent_of_ours_finds_a_restarted_server() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let port = cluster.server.agents.port();
        cluster.server.kill().await;
        let mut spec = tunnel_tests::ServerSpec::new("successor");
        spec.agent_port = port;
        let successor = wait_for("the port", async || cluster.start_server(&spec)).await;
        successor.wait_for_tunnels(1).await;
        let echo = Target::echo(node(link)).await;
        ping(&mut successor.connect(Frontend::GrpcUnix, &echo).await).await;
        wait_within(PROMPT, "the agent to be ready", async || {
            match cluster.agents[0].readiness().await.unwrap() {
                (200, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}
