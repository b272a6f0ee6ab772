//! Finds a peer whose process was killed, on QUIC: there nobody says goodbye for it.
//!
//! An agent's heartbeat names the time of the next one. An agent that is overdue is asked,
//! and so is its kernel, which answers "port unreachable" for a process that is gone. Only
//! that answer and silence together end a tunnel. A server's kernel is asked once the
//! server is suspect.
//!
//! A NAT that has forgotten an agent gives the kernel's answer for a living one, until the
//! agent speaks and shows its new address. So a living agent has to speak before the
//! kernel is asked. Between two of its heartbeats pass at most the promised time, the
//! delay of the network, and a lost datagram's retransmission after one and a half round
//! trips: [`LEEWAY`] and two round-trip times cover the last two. Two heartbeats lost in
//! a row are not covered; a NAT has to forget in that half second to do harm.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tunnel_proto::message::{Control, Ping};

use super::{Party, Patience, Say, Signs, silent};
use crate::streams::Streams;
use crate::transport::quic;

/// How much later than promised a heartbeat may come. Below it a host that is busy for a
/// moment is asked in vain; above it a death is found later by as much.
const LEEWAY: Duration = Duration::from_millis(200);

/// Time for a peer to answer, beside two round-trip times.
const ASKED: Duration = Duration::from_millis(100);

/// The same for an agent whose id another process has taken, and for one that is suspect
/// besides: after a blackout the answer and the other process may come in one moment.
const SUCCEEDED: Duration = Duration::from_millis(250);
const SUSPECT_SUCCEEDED: Duration = Duration::from_secs(2);

/// How often a silent peer is asked. Kernels send about one ICMP error per second
/// (icmp(7), `icmp_ratelimit`), so more often brings nothing.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Watches the peer of one tunnel.
pub(super) struct Watch {
    pub(super) tunnel: quic::Tunnel,
    pub(super) party: Party,
    pub(super) patience: Patience,
    pub(super) signs: Arc<Signs>,
    pub(super) streams: Arc<Streams>,
    pub(super) say: Say,
}

impl Watch {
    /// Waits until the peer is gone for good: its process was killed, or it is suspect and
    /// no stream waits for it. Returns the reason.
    pub(super) async fn gone(self) -> String {
        let mut number = 0;
        loop {
            let answers_within = self.doubted().await;
            if self.signs.is_suspect() && self.streams.open() == 0 {
                return silent(self.patience.suspect);
            }
            let (asked, received) = (Instant::now(), self.tunnel.received());
            number += 1;
            // The kernel first: it does not answer every datagram, and QUIC repeats the ping.
            let (closed, ()) = tokio::join!(biased; self.tunnel.is_port_closed(), async {
                self.tunnel.nudge();
                // A full queue means that pings wait there already.
                let _ = self.say.try_send(Box::new(Control::Ping(Ping { number })));
                sleep(answers_within + 2 * self.tunnel.round_trip()).await;
            });
            if closed && self.tunnel.received() == received {
                return format!("the {}'s process is gone", self.party.peer());
            }
            sleep_until(asked + ASK_AGAIN).await;
        }
    }

    /// Waits for a reason to ask. Returns the time to answer.
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
