//! Peers that begin a request and do not go on. The limits are ten seconds and cannot
//! be shortened, so one test runs all of them at the same time.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, timeout};
use tunnel::drain::Drain;
use tunnel_tests::raw::{Channel, Io, Listener, PREFACE, read_to_any_end};
use tunnel_tests::{LINKS, Server, Task, Who, open_tunnel, spawn, wait_for};

use crate::{AGENTS, CLIENTS, Siege};

/// Ten seconds for a handshake or a head, ten more for an agent's greeting.
const PATIENCE: Duration = Duration::from_secs(25);

/// Sends `begin`, then the bytes of `drip` one by one, until the server closes.
/// Returns the server's last bytes.
fn dawdle(mut io: Box<dyn Io>, begin: &'static [u8], drip: &'static [u8]) -> Task<String> {
    spawn(async move {
        let (mut from, mut to) = tokio::io::split(&mut io);
        let drips = async {
            let mut pace = interval(Duration::from_millis(300));
            // Writes fail once the server has closed.
            let _ = to.write_all(begin).await;
            for byte in drip {
                pace.tick().await;
                if to.write_all(&[*byte]).await.is_err() || to.flush().await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        let answer = tokio::select! {
            () = drips => Vec::new(),
            answer = timeout(PATIENCE, read_whole(&mut from)) => answer.expect("still not cut off"),
        };
        String::from_utf8_lossy(&answer).into_owned()
    })
}

async fn read_whole(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    read_to_any_end(from).await
}

/// Waits for the counts of slow clients and of agents. Some are counted after their socket is closed.
async fn are_counted(server: &Server, clients: i64, agents: i64) {
    wait_for("all to be counted", async || {
        let metrics = server.metrics().await;
        let found = (metrics.sum(CLIENTS, &["reason=\"slow_request\""]), metrics.sum(AGENTS, &[]));
        match found == (clients, agents) {
            true => Ok(()),
            false => Err(metrics.show(CLIENTS) + &metrics.show(AGENTS)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_and_does_not_go_on_is_cut_off() {
    const HEAD: &[u8] =
        b"ost: 127.0.0.1\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let siege = Siege::begin().await;
    let (server, pki) = (&siege.cluster.server, &siege.cluster.pki);
    let began = Instant::now();

    let mut slow_heads = Vec::new();
    let mut silent = Vec::new();
    let mut calls = Vec::new();
    for listener in Listener::BOTH {
        let open = async || listener.open(server, pki).await;
        slow_heads.push(dawdle(open().await, b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nH", HEAD));
        silent.push(dawdle(open().await, b"", b""));
        silent.push(dawdle(open().await, b"PRI * HT", b""));
        silent.push(dawdle(open().await, PREFACE, b""));
        let channel = Channel::over(open().await).await;
        let call = channel.call().await;
        calls.push((channel, spawn(timeout(PATIENCE, call.end()))));
    }
    for addr in [server.tcp, server.agents] {
        silent.push(dawdle(Box::new(TcpStream::connect(addr).await.unwrap()), &[22, 3, 1], b""));
    }
    for health in [server.health, siege.cluster.agents[0].health] {
        let open = async || Box::new(TcpStream::connect(health).await.unwrap());
        silent.push(dawdle(open().await, b"GET /healthz HTTP/1.1\r\nH", HEAD));
        silent.push(dawdle(open().await, b"", b""));
    }
    let mut agents = Vec::new();
    let drain = Drain::new();
    for link in LINKS {
        let (tunnel, control) =
            open_tunnel(server.agents, link, pki.agent(Who::Agent), &drain).await.unwrap();
        agents.push(spawn(async move {
            let _control = control;
            timeout(PATIENCE, tunnel.closed()).await.expect("an agent without a greeting is still there")
        }));
    }

    for head in slow_heads {
        let answer = head.join().await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
    }
    for task in silent {
        let answer = task.join().await;
        assert!(!answer.contains(" 200 "), "{answer:?}");
    }
    for (_channel, call) in calls {
        let (packets, status, text) = call.join().await.expect("a call without a dial is still there");
        assert_eq!((packets, status, &text[..]), (vec![], 3, "no dial request in time"));
    }
    for agent in agents {
        agent.join().await;
    }
    println!("all gone after {:?}", began.elapsed());
    are_counted(server, 11, 3).await;
    siege.canaries_sing().await;
    drain.kill();
    siege.end().await;
}
