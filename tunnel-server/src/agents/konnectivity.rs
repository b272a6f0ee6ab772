//! Taking Konnectivity's own agents in: who they say they are is metadata of
//! their one call, and there is no conversation beside the packets.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::info;
use tunnel::packets::Counters;
use tunnel::transport::konnectivity::{self, Call, Status};
use tunnel::transport::{Link, Tunnel};
use tunnel_proto::ident::{Identifiers, UnknownKeys};

use super::session::{HANDSHAKE_LIMIT, Sessions, is_agent_id};
use crate::agents::Agent;
use crate::metrics::GaugeGuard;

impl Sessions {
    /// Serves the connection of an agent that speaks gRPC, until it is over.
    pub(super) async fn serve_konnectivity<IO>(&self, io: IO, from: SocketAddr)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let agents = match timeout(HANDSHAKE_LIMIT, konnectivity::accept(io, from)).await {
            Ok(Ok(agents)) => agents,
            Ok(Err(error)) => return self.handshake_failed(Link::Konnectivity, from, &error),
            Err(_) => {
                let error = tunnel::transport::HandshakeError::Timeout;
                return self.handshake_failed(Link::Konnectivity, from, &error);
            }
        };
        let why = agents
            .serve(&self.drain, |call| {
                let sessions = self.clone();
                self.drain.spawn("konnectivity agent", async move { sessions.serve_call(call).await });
            })
            .await;
        tracing::debug!(%from, why, "connection of a konnectivity agent ended");
    }

    /// One call, which is one tunnel.
    async fn serve_call(self, call: Call) {
        let from = call.remote();
        // Boxed: a review is large, and the task lives as long as the tunnel.
        let admitted = tokio::select! {
            biased;
            () = self.drain.killed() => return call.refuse(Status::Unavailable, "the server stopped"),
            admitted = Box::pin(self.admit_call(&call)) => admitted,
        };
        let (id, identifiers) = match admitted {
            Ok(introduced) => introduced,
            Err((status, reason, text)) => {
                self.rejected(Link::Konnectivity, reason);
                info!(%from, link = Link::Konnectivity.label(), why = text, "agent rejected");
                return call.refuse(status, &text);
            }
        };
        let packets = &self.metrics.konnectivity.packets;
        let counters = Counters { received: packets.from_agent.clone(), sent: packets.to_agent.clone() };
        let tunnel = match call.admit(&self.server_id, self.server_count, counters, &self.drain) {
            Ok(tunnel) => tunnel,
            Err(error) => return self.handshake_failed(Link::Konnectivity, from, &error),
        };
        Box::pin(self.keep_call(tunnel, id, identifiers)).await;
    }

    /// Checks what an agent says of itself, and then who it is, which costs more.
    async fn admit_call(&self, call: &Call) -> Result<(String, Identifiers), (Status, &'static str, String)> {
        let introduced = introduction(call).map_err(|text| (Status::Unknown, "rejected", text))?;
        if self.drain.has_started() {
            return Err((Status::Unavailable, "rejected", "the server is draining".to_owned()));
        }
        let Ok(_stranger) = self.strangers.try_acquire() else {
            let text = "too many agents are being admitted".to_owned();
            return Err((Status::Unavailable, "crowded", text));
        };
        match self.authenticator.check_metadata(&call.values("authorization")).await {
            Ok(_) => Ok(introduced),
            Err(rejected) => {
                let status =
                    if rejected.is_temporary() { Status::Unavailable } else { Status::Unauthenticated };
                Err((status, rejected.label(), rejected.to_string()))
            }
        }
    }

    async fn keep_call(self, packets: konnectivity::Tunnel, id: String, identifiers: Identifiers) {
        let tunnel = Tunnel::Konnectivity(packets.clone());
        let link = tunnel.link().label();
        // There is nothing to be said to it.
        let (say, _) = mpsc::channel(1);
        let agent = Arc::new(Agent::new(id, identifiers, tunnel.clone(), say));
        let registration = self.registry.register(Arc::clone(&agent));
        let _open = self.metrics.konnectivity.connect_call();
        let counted = GaugeGuard::new(self.metrics.tunnels.with_label_values(&[link]));
        info!(agent = agent.id, from = %tunnel.remote(), link, "agent connected");
        let drains = async {
            packets.peer_drains().await;
            info!(agent = agent.id, link, "agent drains");
            agent.set_draining();
            registration.changed();
            std::future::pending::<()>().await;
        };
        let why = tokio::select! {
            biased;
            () = self.drain.killed() => "server stopped".to_owned(),
            closed = tunnel.closed() => closed.to_string(),
            () = drains => String::new(),
        };
        drop((registration, counted));
        tunnel.close(&why);
        self.metrics.tunnels_closed.with_label_values(&[link]).inc();
        info!(agent = agent.id, link, why, streams = agent.streams(), "agent disconnected");
    }
}

/// What the metadata of a call says. Texts are as agents of all versions know
/// them.
fn introduction(call: &Call) -> Result<(String, Identifiers), String> {
    let ids = call.values("agentid");
    let [id] = ids[..] else {
        return Err(format!("expected one agent ID in the context, got [{}]", ids.join(" ")));
    };
    if !is_agent_id(id) {
        return Err(format!("agent id {id:?} is empty, too long or not printable"));
    }
    let identifiers = match call.values("agentidentifiers")[..] {
        [] => "",
        [identifiers] => identifiers,
        ref more => {
            return Err(format!("expected at most one set of agent identifiers, got {}", more.len()));
        }
    };
    let identifiers =
        Identifiers::parse(identifiers, UnknownKeys::Ignore).map_err(|error| error.to_string())?;
    Ok((id.to_owned(), identifiers))
}
