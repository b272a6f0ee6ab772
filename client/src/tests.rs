//! Both protocols, over both kinds of sockets, against a fake frontend.

mod files;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::fake::{Fake, Fault};
use files::Files;

const BOTH: [Protocol; 2] = [Protocol::Connect, Protocol::Grpc];

/// A fake frontend on a Unix socket.
struct Frontend {
    endpoint: Endpoint,
    protocol: Protocol,
    _fake: Fake,
    _dir: TempDir,
}

impl Frontend {
    fn new(protocol: Protocol, fault: Fault) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("frontend.socket");
        let fake = Fake::unix(&path, protocol, fault).unwrap();
        Self { endpoint: Endpoint::unix(path), protocol, _fake: fake, _dir: dir }
    }

    async fn dial(&self, target: &str) -> Result<Connection, DialError> {
        dial(self.protocol, &self.endpoint, target, &Options::default()).await
    }

    async fn dial_with(&self, target: &str, options: Options) -> Result<Connection, DialError> {
        dial(self.protocol, &self.endpoint, target, &options).await
    }
}

/// A target that calls `serve` for each connection.
async fn target<F, S>(serve: S) -> (String, JoinSet<()>)
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(serve(socket));
        }
    });
    (address, tasks)
}

async fn echo_target() -> (String, JoinSet<()>) {
    target(|mut socket| async move {
        let (mut read, mut write) = socket.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Sends and receives `sent` at once and compares the echo.
async fn exchange(connection: Connection, sent: &[u8]) -> Connection {
    let (mut read, mut write) = tokio::io::split(connection);
    let mut received = vec![0; sent.len()];
    let both = async {
        tokio::try_join!(write.write_all(sent), read.read_exact(&mut received)).unwrap();
    };
    timeout(Duration::from_secs(20), both).await.expect("the echo stalls");
    assert!(received == sent, "the echo differs");
    read.unsplit(write)
}

#[tokio::test]
async fn bytes_come_back_as_they_were_sent() {
    let (address, _target) = echo_target().await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::None);
        for length in [1, 27, 28, 16_384, 32_768, 32_769, 3_000_000] {
            let connection = frontend.dial(&address).await.unwrap();
            assert!(!connection.early());
            let connection = exchange(connection, &pattern(length)).await;
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_channel_carries_many_dials_at_once() {
    let (address, _target) = echo_target().await;
    let frontend = Frontend::new(Protocol::Grpc, Fault::None);
    let channel = grpc::Channel::open(&frontend.endpoint, &Options::default()).await.unwrap();
    let mut dials = JoinSet::new();
    for at in 0..150 {
        let (channel, address) = (channel.clone(), address.clone());
        dials.spawn(async move {
            let connection = channel.dial(&address).await.unwrap();
            exchange(connection, &pattern(10_000 + at)).await.close().await.unwrap();
        });
    }
    drop(channel);
    while let Some(done) = dials.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_target_is_the_end_of_the_connection() {
    let (address, _target) = target(|mut socket| async move {
        let mut first = [0];
        socket.read_exact(&mut first).await.unwrap();
        socket.write_all(&pattern(500_000)).await.unwrap();
    })
    .await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::None);
        let mut connection = frontend.dial(&address).await.unwrap();
        connection.write_all(b"x").await.unwrap();
        let mut received = Vec::new();
        connection.read_to_end(&mut received).await.unwrap();
        assert!(received == pattern(500_000));
        // The end stays the end.
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
        connection.close().await.unwrap();
    }
}

/// The CLOSE_RSP is under way, or here and not read.
#[tokio::test]
async fn closing_a_connection_that_the_target_closed_is_no_error() {
    let (address, _target) = target(|mut socket| async move {
        socket.write_all(b"bye").await.unwrap();
    })
    .await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::None);
        for wait in [0, 100] {
            // On a busy machine the target's bytes may come with the answer.
            let keep = Options { early: Early::Keep, ..Options::default() };
            let connection = frontend.dial_with(&address, keep).await.unwrap();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            connection.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_half_close_on_connect_lets_the_target_answer() {
    let (address, _target) = target(|mut socket| async move {
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        socket.write_all(format!("{} bytes", received.len()).as_bytes()).await.unwrap();
    })
    .await;
    let frontend = Frontend::new(Protocol::Connect, Fault::None);
    let mut connection = frontend.dial(&address).await.unwrap();
    assert!(connection.has_half_close());
    connection.write_all(&pattern(70_000)).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "70000 bytes");
}

#[tokio::test]
async fn a_shutdown_on_grpc_ends_the_connection() {
    let (address, _target) = echo_target().await;
    let frontend = Frontend::new(Protocol::Grpc, Fault::None);
    let mut connection = frontend.dial(&address).await.unwrap();
    assert!(!connection.has_half_close());
    connection.shutdown().await.unwrap();
    assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
    assert!(connection.write(b"x").await.is_err());
    connection.close().await.unwrap();
}

#[tokio::test]
async fn the_reason_of_a_refusal_arrives() {
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::Refuse("no agent serves 10.0.3.7"));
        let error = frontend.dial("10.0.3.7:1").await.unwrap_err();
        assert_eq!(error.reason(), Some("no agent serves 10.0.3.7"), "{error}");
        assert_eq!(error.status(), (protocol == Protocol::Connect).then_some(502));
    }
}

#[tokio::test]
async fn bytes_with_the_answer_fail_the_dial_or_are_kept() {
    let (address, _target) = echo_target().await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::Early(b"220 hello"));
        let error = frontend.dial(&address).await.unwrap_err();
        assert!(matches!(error, DialError::Early { count: 9 }), "{error}");

        let keep = Options { early: Early::Keep, ..Options::default() };
        let mut connection = frontend.dial_with(&address, keep).await.unwrap();
        assert!(connection.early());
        connection.write_all(b"!").await.unwrap();
        let mut received = [0; 10];
        connection.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"220 hello!");
    }
}

#[tokio::test]
async fn a_frontend_that_never_answers_costs_the_limit() {
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::Silent);
        let options = Options { timeout: Duration::from_millis(200), ..Options::default() };
        let error = frontend.dial_with("10.0.0.1:1", options).await.unwrap_err();
        assert!(matches!(error, DialError::Timeout { limit, .. } if limit.as_millis() == 200), "{error}");
    }
}

#[tokio::test]
async fn packets_of_another_connection_are_an_error() {
    let (address, _target) = echo_target().await;
    let frontend = Frontend::new(Protocol::Grpc, Fault::Foreign);
    let mut connection = frontend.dial(&address).await.unwrap();
    connection.write_all(b"x").await.unwrap();
    let error = connection.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn no_frontend_and_no_target_are_told_apart() {
    let nowhere = Endpoint::unix("/nonexistent/frontend.socket");
    let options = Options::default();
    for protocol in BOTH {
        let error = dial(protocol, &nowhere, "a:1", &options).await.unwrap_err();
        assert!(matches!(error, DialError::Connect(_)), "{error}");
        for bad in ["", "a:1 HTTP/1.1\r\nX: y", "a:1\n"] {
            assert!(matches!(dial(protocol, &nowhere, bad, &options).await, Err(DialError::Target(_))));
        }
    }
}

/// A reader that stops holds the target back, within windows and buffers; the
/// bytes are whole when it goes on.
#[tokio::test]
async fn a_reader_that_stops_holds_the_target_back() {
    const LENGTH: usize = 64 << 20;
    let (sent, mut progress) = tokio::sync::watch::channel(0usize);
    let (address, _target) = target(move |mut socket| {
        let sent = sent.clone();
        async move {
            let block = pattern(64 << 10);
            socket.read_u8().await.unwrap();
            for _ in 0..LENGTH / block.len() {
                socket.write_all(&block).await.unwrap();
                sent.send_modify(|sent| *sent += block.len());
            }
        }
    })
    .await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::None);
        let mut connection = frontend.dial(&address).await.unwrap();
        let before = *progress.borrow();
        connection.write_all(b"x").await.unwrap();
        // The target goes on until everything on the way is full.
        while timeout(Duration::from_millis(300), progress.changed()).await.is_ok() {}
        let ahead = *progress.borrow() - before;
        assert!(ahead < LENGTH / 2, "{protocol:?}: {ahead} bytes ahead of the reader");
        let (mut total, mut buffer) = (0, vec![0; 100_000]);
        loop {
            match connection.read(&mut buffer).await.unwrap() {
                0 => break,
                read => total += read,
            }
        }
        assert_eq!(total, LENGTH);
    }
}

#[tokio::test]
async fn a_dropped_connection_ends_at_the_target() {
    let (ended, mut seen) = tokio::sync::mpsc::channel(2);
    let (address, _target) = target(move |mut socket| {
        let ended = ended.clone();
        async move {
            let mut sink = Vec::new();
            let _ = socket.read_to_end(&mut sink).await;
            let _ = ended.send(()).await;
        }
    })
    .await;
    for protocol in BOTH {
        let frontend = Frontend::new(protocol, Fault::None);
        drop(frontend.dial(&address).await.unwrap());
        timeout(Duration::from_secs(20), seen.recv()).await.expect("the target sees no end");
    }
}

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let (address, _target) = echo_target().await;
    let dir = TempDir::new().unwrap();
    let files = Files::new(&dir);
    for protocol in BOTH {
        let (_fake, at) = Fake::tls(files.server(protocol), protocol, Fault::None).await.unwrap();
        let config = tls_config(&files.ca, &files.certificate, &files.key).unwrap();
        let endpoint = Endpoint::tls(at, "localhost".try_into().unwrap(), config.clone());
        let connection = dial(protocol, &endpoint, &address, &Options::default()).await.unwrap();
        exchange(connection, &pattern(300_000)).await.close().await.unwrap();

        let stranger = Endpoint::tls(at, "elsewhere".try_into().unwrap(), config);
        let error = dial(protocol, &stranger, &address, &Options::default()).await.unwrap_err();
        assert!(matches!(error, DialError::Tls(_)), "{error}");
    }
    let missing = tls_config(&dir.path().join("none.pem"), &files.certificate, &files.key).unwrap_err();
    assert!(missing.to_string().contains("none.pem"), "{missing}");
}

#[tokio::test]
async fn a_socket_is_reset_when_it_closes_if_that_is_wanted() {
    let dir = TempDir::new().unwrap();
    let files = Files::new(&dir);
    let config = tls_config(&files.ca, &files.certificate, &files.key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(files.server(Protocol::Connect)));
    for (reset_on_close, end) in [(false, ErrorKind::UnexpectedEof), (true, ErrorKind::ConnectionReset)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Endpoint::tls(address, "localhost".try_into().unwrap(), config.clone());
        let serve = async {
            let mut socket = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            let _ = socket.read(&mut [0; 1024]).await.unwrap();
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            socket.read(&mut [0; 1]).await.unwrap_err().kind()
        };
        let leave = async {
            let options = Options { reset_on_close, ..Options::default() };
            drop(dial(Protocol::Connect, &endpoint, "a:1", &options).await.unwrap());
        };
        let (seen, ()) = tokio::join!(serve, leave);
        assert_eq!(seen, end, "{reset_on_close}");
    }
}
