//! Bytes between clients and targets: whole, in their order, and nothing else.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel_client::Connection;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::raw::Listener;
use tunnel_tests::{AgentSpec, Cluster, Target, many, node, spawn, within};

use super::{PAGE, leave};
use crate::ways::{FRONTENDS, WAYS, Way, on_every_way, stock_agent};

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
                builder = builder.agent(AgentSpec::new(id, link, node(link)));
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
