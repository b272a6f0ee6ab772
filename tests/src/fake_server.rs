//! A server that admits agents and records their greetings.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tunnel::drain::Drain;
use tunnel::listen::bind_tcp;
use tunnel::liveness::{Health, Liveness, Party, Patience};
use tunnel::messages::{control_messages, greeting};
use tunnel::transport::{Tunnel, h2};
use tunnel_proto::message::{Control, Hello, VERSION, Welcome, encode_control};

use crate::pki::Pki;
use crate::task::{Task, spawn};

/// A server on the h2 link that opens no streams.
#[derive(Debug)]
pub struct FakeServer {
    /// The listener of agents.
    pub addr: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
    drain: Drain,
    _task: Task,
}

impl FakeServer {
    /// A server of this id.
    pub fn start(pki: &Pki, id: &str) -> Self {
        Self::serve(pki, id, None)
    }

    /// A server that repeats a control message as fast as its agents take it.
    pub fn flooding(pki: &Pki, id: &str, message: Bytes) -> Self {
        Self::serve(pki, id, Some(message))
    }

    fn serve(pki: &Pki, id: &str, flood: Option<Bytes>) -> Self {
        let listener = bind_tcp(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(pki.agent_listener());
        let (hellos, drain) = (Arc::<Mutex<Vec<Hello>>>::default(), Drain::new());
        let welcome = Welcome { version: VERSION, server_id: id.to_owned(), ..Welcome::default() };
        let (heard, links) = (Arc::clone(&hellos), drain.clone());
        let task = spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((tcp, from)) = listener.accept().await {
                let (acceptor, links, heard, welcome, flood) =
                    (acceptor.clone(), links.clone(), Arc::clone(&heard), welcome.clone(), flood.clone());
                tunnels.spawn(Box::pin(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let Ok((tunnel, control)) = Box::pin(h2::accept(tls, from, &links)).await else {
                        return;
                    };
                    let mut messages = control_messages(control);
                    let Ok(Control::Hello(hello)) = greeting(&mut messages).await else { return };
                    heard.lock().unwrap().push(hello);
                    messages.send(encode_control(Control::Welcome(welcome)).unwrap()).await.unwrap();
                    if let Some(message) = flood {
                        while messages.send(message.clone()).await.is_ok() {}
                        return;
                    }
                    let (tunnel, patience) = (Tunnel::H2(tunnel), Patience::default());
                    let (mut liveness, _peer) =
                        Liveness::new(tunnel, Some(messages), Party::Server, patience, Arc::default());
                    while !matches!(liveness.next().await, Health::Dead(_)) {}
                }));
            }
        });
        Self { addr, hellos, drain, _task: task }
    }

    /// Greetings received from agents.
    pub fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.drain.kill();
    }
}
