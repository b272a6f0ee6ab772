//! Finds a peer whose process was killed, on QUIC, where the kernel closes no connection.
//!
//! An agent's heartbeat promises the time of the next one. When it is overdue, the server
//! pings the agent and probes its kernel, which answers "port unreachable" for a process that
//! is gone. Only that answer and silence together end a tunnel. An agent probes a server's
//! kernel once the server is suspect.
//!
//! A NAT that has forgotten an agent answers like such a kernel, until the agent's next
//! datagram shows its new address. So a living agent has to speak before the probe. Between
//! two heartbeats pass at most the promised time, the network's delay, and a retransmission
//! after one and a half round trips; [`LEEWAY`] and two round-trip times cover the last two.
//! Not covered: a NAT that forgets while two heartbeats are lost in a row.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tunnel_proto::message::{Control, Ping};

use super::signs::{Party, Patience, Say, Signs, silent};
use crate::streams::Streams;
use crate::transport::quic;

/// How much later than promised a heartbeat may come. Below it, busy hosts are probed in
/// vain; above it, a death is found later by as much.
const LEEWAY: Duration = Duration::from_millis(200);

/// Time for a peer to answer a ping, beyond two round-trip times. Less ends tunnels of busy
/// hosts behind a NAT; more finds a death later.
const ASKED: Duration = Duration::from_millis(100);

/// The same for an agent whose id another process has taken.
const SUCCEEDED: Duration = Duration::from_millis(250);

/// The same for such an agent that is suspect: after a blackout, its answer and the other
/// process may arrive together.
const SUSPECT_SUCCEEDED: Duration = Duration::from_secs(2);

/// Interval of probes of a silent peer. Shorter brings nothing: kernels send about one ICMP
/// error per second (icmp(7), `icmp_ratelimit`).
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The search for one tunnel's peer.
pub(super) struct Search {
    pub(super) tunnel: quic::Tunnel,
    pub(super) party: Party,
    pub(super) patience: Patience,
    pub(super) signs: Arc<Signs>,
    pub(super) streams: Arc<Streams>,
    pub(super) say: Say,
}

impl Search {
    /// Waits until the peer's process is found killed, or the peer is suspect and no stream
    /// waits for it. Returns the reason.
    pub(super) async fn gone(self) -> String {
        let mut number = 0;
        loop {
            let answers_within = self.doubted().await;
            if self.signs.is_suspect() && self.streams.open() == 0 {
                return silent(self.patience.suspect);
            }
            let (asked, received) = (Instant::now(), self.tunnel.received());
            number += 1;
            // The kernel first: it answers few datagrams, and QUIC repeats the ping.
            let (closed, ()) = tokio::join!(biased; self.tunnel.is_port_closed(), async {
                self.tunnel.nudge();
                // Fails when pings wait already.
                let _ = self.say.try_send(Box::new(Control::Ping(Ping { number, ..Ping::default() })));
                sleep(answers_within + 2 * self.tunnel.round_trip()).await;
            });
            if closed && self.tunnel.received() == received {
                return format!("the {}'s process is gone", self.party.peer());
            }
            sleep_until(asked + ASK_AGAIN).await;
        }
    }

    /// Waits for a reason to ask. Returns the time for an answer.
    async fn doubted(&self) -> Duration {
        tokio::select! {
            biased;
            () = self.signs.doubted.notified() => {
                if self.signs.is_suspect() { SUSPECT_SUCCEEDED } else { SUCCEEDED }
            }
            () = self.signs.suspected() => ASKED,
            () = self.overdue(), if self.party == Party::Server => ASKED,
        }
    }

    /// Waits until an agent with streams has not spoken for longer than it promised.
    async fn overdue(&self) {
        loop {
            self.streams.some().await;
            let overdue = self.signs.promised_until() + LEEWAY + 2 * self.tunnel.round_trip();
            if overdue <= Instant::now() {
                return;
            }
            sleep_until(overdue).await;
        }
    }
}
