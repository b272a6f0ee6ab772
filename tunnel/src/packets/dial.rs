//! Dials on a packet stream, from both sides.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tunnel_proto::message::Dial;
use tunnel_proto::packet::Packet;

use super::conn::Conn;
use super::member::Member;
use super::mux::Mux;
use crate::transport::error::DialFailure;

/// A dial without an answer. Dropping it takes the dial back.
struct Pending<'a> {
    mux: &'a Mux,
    random: i64,
    /// The packet as it was queued.
    request: Bytes,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let open = self.mux.table().forget_dial(self.random);
        if open && !self.mux.unsay(&self.request) {
            self.mux.control(&Packet::CloseDial { random: self.random });
        }
    }
}

impl Mux {
    /// Asks the peer to connect to `address` (`host:port`) over TCP. A request that the
    /// peer has not read after `untaken` is taken back, and the peer never learns of it.
    ///
    /// Waits as long as the peer takes; the caller limits the time. Cancel safe: dropping
    /// the future takes the dial back.
    ///
    /// # Errors
    /// With the peer's refusal, or the failure of the stream; see [`DialFailure`].
    pub async fn dial(&self, address: String, untaken: Option<Duration>) -> Result<Member, DialFailure> {
        let (answer, answered) = oneshot::channel();
        // The top bit stays clear: the number is signed on the wire.
        let random = i64::from_ne_bytes(rand::random::<[u8; 8]>()) & i64::MAX;
        self.table().dial(random, answer)?;
        let request = Packet::DialRequest { protocol: "tcp".to_owned(), address, random };
        let pending = Pending { mux: self, random, request: request.encode() };
        if !self.control(&request) {
            self.table().forget_dial(random);
            return Err(DialFailure::Busy);
        }
        let answer = tokio::select! {
            biased;
            answer = answered => answer,
            () = self.unsaid(&pending.request, untaken) => {
                self.table().forget_dial(random);
                return Err(DialFailure::Busy);
            }
        };
        drop(pending);
        answer.unwrap_or_else(|_| Err(DialFailure::Lost(self.table().why().to_owned())))
    }

    /// Waits for `limit`. Ready when the request was then still unsent and is taken back.
    async fn unsaid(&self, request: &Bytes, limit: Option<Duration>) {
        if let Some(limit) = limit {
            sleep(limit).await;
            if self.unsay(request) {
                return;
            }
        }
        pending().await
    }
}

/// A dial that the peer asks for. Dropping it without an answer refuses it.
#[derive(Debug)]
pub struct PacketDial {
    /// The protocol asked for; only "tcp" is served.
    pub(super) protocol: String,
    /// `host:port` as the peer wrote it.
    pub(super) address: String,
    pub(super) mux: Mux,
    pub(super) random: i64,
    pub(super) connect_id: i64,
    pub(super) cancelled: CancellationToken,
    pub(super) answered: bool,
}

impl PacketDial {
    /// The dial. The packets carry no time limit, so the agent's own applies.
    ///
    /// # Errors
    /// With a text as Go's dialler writes it.
    pub(crate) fn dial(&self) -> Result<Dial, String> {
        if self.protocol != "tcp" {
            let shown: String = self.protocol.chars().take(32).flat_map(char::escape_default).collect();
            return Err(format!("dial {shown}: unknown network {shown}"));
        }
        let target = self.address.parse().map_err(|error| format!("dial tcp: {error}"))?;
        Ok(Dial {
            target,
            timeout: Duration::MAX,
            connection_id: self.connect_id.unsigned_abs(),
            measure: false,
        })
    }

    /// Waits until the peer takes the dial back. Cancel safe.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Answers that the target is connected.
    pub fn accept(mut self) -> Member {
        self.answered = true;
        let (random, connect_id) = (self.random, self.connect_id);
        let conn = Conn::new(connect_id);
        self.mux.table().insert(Arc::clone(&conn), random);
        let answer = Packet::DialResponse { error: String::new(), connect_id, random };
        if !self.mux.control(&answer) {
            self.mux.close("the peer does not read");
        }
        Member::new(self.mux.clone(), conn)
    }

    /// Answers that the target cannot be connected.
    pub fn refuse(mut self, error: String) {
        self.answer_no(error);
    }

    fn answer_no(&mut self, error: String) {
        self.answered = true;
        self.mux.table().forget_asked(self.random);
        if !self.cancelled.is_cancelled() {
            self.mux.control(&Packet::DialResponse { error, connect_id: 0, random: self.random });
        }
    }
}

impl Drop for PacketDial {
    fn drop(&mut self) {
        if !self.answered {
            self.answer_no("the dial was given up".to_owned());
        }
    }
}
