//! Certificates that are refused, on every listener that asks for one: each with its own reason.
//!
//! A certificate of the right authority and a wrong name is admitted: no listener has a list of names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::messages::{control_messages, greeting};
use tunnel::tls::{ALPN, Identity, agent_client, load_roots};
use tunnel_proto::message::{Control, encode_control};
use tunnel_tests::raw::{PREFACE, read_to_any_end};
use tunnel_tests::{Credential, hello, open_tunnel, wait_for, within};

use super::*;

/// A listener, and what is said to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Agents(Link),
    Connect,
    Grpc,
}

impl Listener {
    const ALL: [Self; 5] = [
        Self::Agents(Link::Quic),
        Self::Agents(Link::H2),
        Self::Agents(Link::Konnectivity),
        Self::Connect,
        Self::Grpc,
    ];

    /// The protocol is not known yet when a certificate is refused on TCP: konnectivity agents
    /// count as those on h2.
    fn counter(self) -> (&'static str, &'static str) {
        match self {
            Self::Agents(Link::Quic) => ("tunnel_server_rejected_agents_total", "link=\"quic\""),
            Self::Agents(Link::H2 | Link::Konnectivity) => {
                ("tunnel_server_rejected_agents_total", "link=\"h2\"")
            }
            Self::Connect | Self::Grpc => ("tunnel_server_bad_clients_total", "reason="),
        }
    }

    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Agents(Link::Quic | Link::H2) => vec![ALPN.to_vec()],
            Self::Agents(Link::Konnectivity) | Self::Grpc => vec![b"h2".to_vec()],
            Self::Connect => Vec::new(),
        }
    }

    /// Whether the listener does as a client or agent with this certificate asks.
    async fn admits(self, server: &Server, tls: ClientConfig, target: &str) -> bool {
        let mut tls = tls;
        tls.alpn_protocols = self.alpn();
        let tls = Arc::new(tls);
        match self {
            Self::Agents(link @ (Link::Quic | Link::H2)) => welcomes(server, link, tls).await,
            Self::Agents(Link::Konnectivity) => !answer(server.agents, tls, PREFACE).await.is_empty(),
            Self::Grpc => !answer(server.tcp, tls, PREFACE).await.is_empty(),
            Self::Connect => {
                let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
                !answer(server.tcp, tls, request.as_bytes()).await.is_empty()
            }
        }
    }
}

/// Whether an agent gets an answer to its greeting. With TLS 1.3 it learns of a refusal only then.
async fn welcomes(server: &Server, link: Link, tls: Arc<ClientConfig>) -> bool {
    let drain = Drain::new();
    let welcome = async {
        let (_tunnel, control) = open_tunnel(server.agents, link, tls, &drain).await.ok()?;
        let mut messages = control_messages(control);
        messages.send(encode_control(Control::Hello(hello("agent", ""))).unwrap()).await.ok()?;
        greeting(&mut messages).await.ok()
    };
    let welcome = within("an answer", welcome).await;
    drain.kill();
    matches!(welcome, Some(Control::Welcome(_)))
}

/// The first bytes of an answer to a request over TLS, or all of it.
async fn answer(server: SocketAddr, tls: Arc<ClientConfig>, request: &[u8]) -> Vec<u8> {
    let tcp = TcpStream::connect(server).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let Ok(mut tls) = TlsConnector::from(tls).connect(name, tcp).await else { return Vec::new() };
    if tls.write_all(request).await.is_err() || tls.shutdown().await.is_err() {
        return Vec::new();
    }
    read_to_any_end(&mut tls).await
}

fn config(credential: Credential, pki: &Pki, dir: &Path) -> ClientConfig {
    let identity = credential.make(pki, dir).map(|(cert, key)| Identity::load(&cert, &key).unwrap());
    let roots: Arc<RootCertStore> = load_roots(&pki.ca()).unwrap();
    Arc::unwrap_or_clone(agent_client(identity.as_ref(), roots).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_listener_refuses_bad_certificates_each_with_its_reason() {
    tunnel_tests::panics::record();
    let dir = TempDir::new().unwrap();
    let pki = Pki::make(dir.path());
    let server = Server::start(dir.path(), &pki, &ServerSpec::new("server")).unwrap();
    let target = Target::echo(Ipv4Addr::LOCALHOST).await.to_string();
    for listener in Listener::ALL {
        let (counter, label) = listener.counter();
        for (credential, reason) in Credential::BAD {
            let named = format!("reason=\"{reason}\"");
            let count = async || {
                let metrics = server.metrics().await;
                let of_all = metrics.sum(counter, &["reason=\"certificate_"]);
                (metrics.sum(counter, &[label, &named]), of_all, metrics)
            };
            let (of_reason, of_all, _) = count().await;
            let admitted = listener.admits(&server, config(credential, &pki, dir.path()), &target).await;
            assert!(!admitted, "{credential:?} on {listener:?}");
            wait_for(&format!("{credential:?} on {listener:?} to be counted once"), async || {
                let (now, all, metrics) = count().await;
                match (now - of_reason, all - of_all) {
                    (1, 1) => Ok(()),
                    _ => Err(metrics.show(counter)),
                }
            })
            .await;
        }
        let good = config(Credential::Good, &pki, dir.path());
        assert!(listener.admits(&server, good, &target).await, "{listener:?} admits nobody");
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}
