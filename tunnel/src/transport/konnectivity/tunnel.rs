//! One call and its packets, from both sides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};

use crate::drain::Drain;
use crate::packets::{Halves, Limits, Member, Mux, PacketDial, Role};
use crate::transport::error::{DialFailure, TunnelClosed};

/// One call and its packets.
#[derive(Debug, Clone)]
pub struct Tunnel {
    mux: Mux,
    remote: SocketAddr,
    /// Dials of the server. The lock makes the tunnel `Clone`.
    dials: Arc<Mutex<mpsc::Receiver<PacketDial>>>,
}

impl Tunnel {
    pub(super) fn start(
        halves: Halves,
        role: Role,
        limits: Limits,
        remote: SocketAddr,
        drain: &Drain,
    ) -> Self {
        let (mux, dials) = Mux::start(halves, role, limits, drain);
        Self { mux, remote, dials: Arc::new(Mutex::new(dials)) }
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) async fn dial(
        &self,
        address: String,
        untaken: Option<Duration>,
    ) -> Result<Member, DialFailure> {
        self.mux.dial(address, untaken).await
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.mux.is_stuck()
    }

    pub(crate) async fn accept(&self) -> Result<PacketDial, TunnelClosed> {
        match self.dials.lock().await.recv().await {
            Some(dial) => Ok(dial),
            None => Err(self.closed().await),
        }
    }

    /// Agents only: Konnectivity's agents take a DRAIN of the server for a protocol error.
    pub(crate) fn announce_drain(&self) {
        if self.mux.role() == Role::Answerer {
            self.mux.say_drain();
        }
    }

    pub(crate) async fn peer_drains(&self) {
        self.mux.peer_drains().await;
    }

    pub(crate) fn close(&self, why: &str) {
        self.mux.close(why);
    }

    pub(crate) async fn closed(&self) -> TunnelClosed {
        TunnelClosed(self.mux.closed().await)
    }
}
