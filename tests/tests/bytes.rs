//! Every byte arrives, once, in order and at the right end, on each pair of
//! frontend and link.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};
use tunnel::transport::Link;
use tunnel_client::{CloseError, Connection, DialError, Early, Options, dial, grpc};
use tunnel_tests::payload::{self, Header};
use tunnel_tests::raw::Listener;
use tunnel_tests::{
    Cluster, Frontend, LIMIT, LINKS, Target, for_each_combination, many, node, wait_for, within,
};

/// Connections at once.
const AT_ONCE: usize = 32;

/// Connections per combination; `TUNNEL_TEST_CONNECTIONS` is for long runs.
fn connections() -> u64 {
    std::env::var("TUNNEL_TEST_CONNECTIONS").map_or(300, |n| n.parse().expect("a number of connections"))
}

/// Runs `check` on many connections of each combination to the link's target.
async fn on_many<C, F>(target: impl AsyncFn(Link, Frontend) -> Target, check: C)
where
    C: Fn(Connection, u64, Arc<Target>) -> F + Copy + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let cluster = Arc::new(Cluster::on_both_links().await);
    for_each_combination(async |frontend, link| {
        let target = Arc::new(target(link, frontend).await);
        many(connections(), AT_ONCE, |number| {
            let (cluster, target) = (Arc::clone(&cluster), Arc::clone(&target));
            async move {
                let connection = cluster.server.connect(frontend, &target).await;
                within("a connection", check(connection, number, target)).await;
            }
        })
        .await;
    })
    .await;
    Arc::into_inner(cluster).unwrap().finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_target_writes_before_it_closes_arrives() {
    on_many(
        async |link, _| Target::source(node(link)).await,
        async |mut connection: Connection, seed, _| {
            let header = Header::of(seed);
            payload::write(&mut connection, &header.encode()).await.unwrap();
            let all = payload::read_all(&mut connection).await.unwrap();
            payload::assert_is(&all, seed, header.len);
            connection.close().await.unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_writes_before_it_closes_arrives() {
    on_many(
        async |link, _| Target::sink(node(link)).await,
        async |mut connection: Connection, seed, target: Arc<Target>| {
            let header = Header::of(seed);
            payload::write(&mut connection, &header.with_payload()).await.unwrap();
            connection.close().await.unwrap();
            let report = target.report(seed).await;
            assert_eq!((report.len, report.clean), (header.len, true), "payload {seed}");
            assert_eq!(report.digest, payload::digest(&payload::bytes(seed, header.len)), "payload {seed}");
        },
    )
    .await;
}

/// gRPC has no half-close, so there the target knows the length, and the
/// client closes after the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_can_answer_after_the_end_of_the_question() {
    on_many(
        async |link, frontend| Target::answers(node(link), !frontend.is_grpc()).await,
        async |mut connection: Connection, seed, _| {
            let header = Header::of(seed);
            payload::write(&mut connection, &header.with_payload()).await.unwrap();
            if connection.has_half_close() {
                connection.shutdown().await.unwrap();
            }
            let mut digest = payload::Digest::default();
            connection.read_exact(&mut digest).await.unwrap();
            assert_eq!(digest, payload::digest(&payload::bytes(seed, header.len)), "payload {seed}");
            let all = payload::read_all(&mut connection).await.unwrap();
            payload::assert_is(&all, seed, header.len);
            connection.close().await.unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_can_speak_first() {
    on_many(
        async |link, _| Target::speaks_first(node(link)).await,
        async |mut connection: Connection, _, _| {
            let header = Header::read(&mut connection).await.unwrap();
            let mut heard = vec![0; header.len];
            connection.read_exact(&mut heard).await.unwrap();
            payload::assert_is(&heard, header.seed, header.len);
            payload::write(&mut connection, &heard).await.unwrap();
            let digest = payload::read_all(&mut connection).await.unwrap();
            assert_eq!(digest, payload::digest(&heard), "payload {:#x}", header.seed);
            connection.close().await.unwrap();
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_carry_bytes_at_the_same_time() {
    on_many(
        async |link, _| Target::echo(node(link)).await,
        async |connection: Connection, seed, _| {
            let sent = payload::bytes(seed, payload::size(seed));
            let mut back = vec![0; sent.len()];
            let (mut from, mut to) = tokio::io::split(connection);
            tokio::try_join!(to.write_all(&sent), from.read_exact(&mut back)).unwrap();
            payload::assert_is(&back, seed, sent.len());
            from.unsplit(to).close().await.unwrap();
        },
    )
    .await;
}

/// Newer kube-apiservers make many calls on one HTTP/2 connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_grpc_connection_carries_many_dials() {
    let cluster = Cluster::on_both_links().await;
    for link in LINKS {
        for frontend in [Frontend::GrpcUnix, Frontend::GrpcMtls] {
            let endpoint = cluster.server.endpoint(frontend);
            let channel = grpc::Channel::open(&endpoint, &Options::default()).await.unwrap();
            let target = Arc::new(Target::echo(node(link)).await);
            many(connections(), AT_ONCE, |seed| {
                let (channel, target) = (channel.clone(), Arc::clone(&target));
                async move {
                    let mut connection = channel.dial(&target.to_string()).await.unwrap();
                    // Less than the windows hold, so all of it may be written before any is read.
                    let sent = payload::bytes(seed, payload::size(seed).min(60_000));
                    let mut back = vec![0; sent.len()];
                    payload::write(&mut connection, &sent).await.unwrap();
                    within("an echo", connection.read_exact(&mut back)).await.unwrap();
                    payload::assert_is(&back, seed, sent.len());
                    connection.close().await.unwrap();
                }
            })
            .await;
        }
    }
    cluster.finish().await;
}

/// FIN and RST stay different, and bytes in front of either arrive. A Unix socket has
/// no reset, so there the end looks orderly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_the_target_is_no_orderly_end() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let target = Target::resets(node(link)).await;
        let mut connection = cluster.server.connect(frontend, &target).await;
        let header = Header { seed: 5, len: 100_000 };
        payload::write(&mut connection, &header.encode()).await.unwrap();
        let mut all = vec![0; header.len];
        within("the payload", connection.read_exact(&mut all)).await.unwrap();
        payload::assert_is(&all, header.seed, header.len);
        payload::write(&mut connection, &[1]).await.unwrap();
        let end = within("the end", connection.read(&mut [0])).await;
        match frontend {
            Frontend::ConnectUnix => assert_eq!(end.unwrap(), 0),
            Frontend::ConnectMtls => assert!(end.is_err(), "an orderly end: {end:?}"),
            Frontend::GrpcUnix | Frontend::GrpcMtls => match connection.close().await {
                Err(CloseError::Reported(text)) => assert_eq!(text, "connection reset by peer"),
                other => panic!("{other:?} instead of a reported reset"),
            },
        }
    })
    .await;
    cluster.finish().await;
}

/// Dropping a Unix connection is an orderly end; every other end is told apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_breaks_off_is_no_orderly_end_for_the_target() {
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let sink = Target::sink(node(link)).await;
        let header = Header { seed: 9, len: 200_000 };
        let mut connection = cluster.server.connect(frontend, &sink).await;
        payload::write(&mut connection, &header.with_payload()).await.unwrap();
        // A reset destroys queued bytes, so all have to have arrived.
        wait_for("all bytes to arrive", async || match sink.moved() {
            200_000 => Ok(()),
            n => Err(format!("{n} bytes")),
        })
        .await;
        drop(connection);
        let report = sink.report(header.seed).await;
        assert_eq!(
            (report.len, report.clean),
            (header.len, frontend == Frontend::ConnectUnix),
            "{frontend:?}"
        );
    })
    .await;
    cluster.finish().await;
}

/// As a kube-apiserver on a busy machine does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_the_answer_late_reads_nothing_with_it() {
    // A client on a Unix socket is seen to read. On TCP the bytes are held back for half a second.
    const UNIX: (Duration, Duration) = (Duration::from_secs(1), Duration::MAX);
    const TCP: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(450));
    let cluster = Cluster::on_both_links().await;
    let read = async |listener: Listener, target: &Target| {
        let (late, too_late) = if listener == Listener::Unix { UNIX } else { TCP };
        let mut client = listener.open(&cluster.server, &cluster.pki).await;
        let began = Instant::now();
        client.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        client.flush().await.unwrap();
        sleep(late).await;
        let mut answer = vec![0; 64 * 1024];
        let len = within("an answer", client.read(&mut answer)).await.unwrap();
        answer.truncate(len);
        (began.elapsed() < too_late).then(|| String::from_utf8_lossy(&answer).into_owned())
    };
    for link in LINKS {
        let target = Target::speaks_first(node(link)).await;
        for listener in Listener::BOTH {
            let answer = wait_for("a read in time", async || {
                read(listener, &target).await.ok_or_else(|| "too late".to_owned())
            });
            let answer = answer.await;
            assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer:?}");
        }
    }
    cluster.finish().await;
}

/// A kube-apiserver fails on bytes that are read together with the answer. On TCP the bytes are held back for half a
/// second. A dial that took longer on a busy machine tells nothing, and is made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_a_target_do_not_ride_with_the_answer() {
    const TRIES: usize = 20;
    const HELD: Duration = Duration::from_millis(450);
    let cluster = Cluster::on_both_links().await;
    for_each_combination(async |frontend, link| {
        let target = Target::speaks_first(node(link)).await;
        let endpoint = cluster.server.endpoint(frontend);
        let options = Options { early: Early::Fail, timeout: LIMIT, ..Options::default() };
        let (mut together, mut tries) = (Vec::new(), 0);
        let tried = async {
            while tries < TRIES {
                let began = Instant::now();
                let dialed = dial(frontend.protocol(), &endpoint, &target.to_string(), &options).await;
                let is_late = frontend != Frontend::ConnectUnix && began.elapsed() >= HELD;
                if is_late && matches!(dialed, Err(DialError::Early { .. })) {
                    continue;
                }
                tries += 1;
                together.extend(dialed.err());
            }
        };
        within("dials in time", tried).await;
        let allowed = if frontend == Frontend::ConnectUnix { 0 } else { TRIES / 20 };
        assert!(together.len() <= allowed, "{} of {TRIES} answers: {together:?}", together.len());
    })
    .await;
    cluster.finish().await;
}
