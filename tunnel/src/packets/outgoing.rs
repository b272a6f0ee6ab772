//! What a packet stream is to send.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use tokio::time::Instant;
use tunnel_proto::packet_kind::PacketKind;

use super::conn::Conn;

/// What the driver is to send.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) control: VecDeque<(PacketKind, Bytes)>,
    /// Connections that have something to send, each at most once.
    pub(super) ready: VecDeque<Arc<Conn>>,
    /// Connections that are to be closed later.
    pub(super) delayed: Vec<(Instant, Arc<Conn>)>,
    /// Since when the peer has taken nothing, while something waits for it.
    pub(super) blocked: Option<Instant>,
    pub(super) driver: Option<Waker>,
}

impl Outgoing {
    pub(super) fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
