//! Agents that are not admitted: counted each, and logged seldom.

use std::net::SocketAddr;

use tracing::debug;
use tunnel::transport::{Arrived, HandshakeError, Link};
use tunnel_program::warn_seldom;
use tunnel_proto::message::{Rejection, RejectionKind};

use super::session::Sessions;

impl Sessions {
    pub(super) fn turn_away(&self, arrived: Arrived, reason: &'static str, why: &str) {
        self.dropped(arrived.link(), arrived.from(), reason, why);
        arrived.turn_away(why);
    }

    pub(super) fn dropped(&self, link: Link, from: SocketAddr, reason: &'static str, why: &str) {
        self.metrics.agent_rejected(link, reason);
        warn_seldom!(("agent", reason), %from, link = link.label(), why, "agent dropped");
    }

    pub(super) async fn reject(
        &self,
        arrived: Arrived,
        kind: RejectionKind,
        reason: &'static str,
        text: String,
    ) {
        let (from, link) = (arrived.from(), arrived.link().label());
        self.metrics.agent_rejected(arrived.link(), reason);
        let mut server_id = String::new();
        if kind == RejectionKind::Duplicate {
            debug!(%from, link, "the agent has a tunnel already");
            // Only a duplicate, which knows the id already, is told which server rejects.
            server_id = self.server_id.to_string();
        } else {
            warn_seldom!(("agent", reason), %from, link, why = text, "agent rejected");
        }
        arrived.reject(Rejection { code: kind.code(), text, server_id }).await;
    }

    pub(super) fn handshake_failed(&self, link: Link, from: SocketAddr, error: &HandshakeError) {
        let reason = error.reason();
        self.metrics.agent_rejected(link, reason);
        if matches!(error, HandshakeError::SaidNothing) {
            return;
        }
        warn_seldom!(("agent", reason), %from, link = link.label(), reason, %error, "agent handshake failed");
    }
}
