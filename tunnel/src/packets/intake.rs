//! Acts on received packets.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_proto::packet::Packet;
use tunnel_proto::refusal::Refusal;

use super::conn::Conn;
use super::dial::PacketDial;
use super::member::Member;
use super::mux::{MAX_CONNECTIONS, Mux, Role};
use crate::duplex::{Broken, End};
use crate::transport::error::DialFailure;

/// The rest of the work after a packet was taken.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing.
    Done,
    /// A dial of the peer, to be made.
    Dial(PacketDial),
    /// `bytes` went into a queue whose fill is now `fill`, from 0 to 1.
    Queued { bytes: usize, fill: f64 },
}

/// A packet that no correct peer sends to this side.
#[derive(Debug)]
pub(super) struct OutOfPlace;

impl Mux {
    /// Acts on one packet.
    pub(super) fn take(&self, packet: Packet) -> Result<Taken, OutOfPlace> {
        match (packet, self.role()) {
            (Packet::Data { connect_id, data }, _) => {
                let bytes = data.len();
                return Ok(Taken::Queued { bytes, fill: self.take_data(connect_id, data) });
            }
            (Packet::CloseResponse { error, connect_id }, Role::Dialer) => {
                self.take_closed(connect_id, &error);
            }
            (Packet::CloseRequest { connect_id }, Role::Answerer) => self.take_close(connect_id),
            (Packet::DialResponse { error, connect_id, random }, Role::Dialer) => {
                self.take_answer(error, connect_id, random);
            }
            (Packet::DialRequest { protocol, address, random }, Role::Answerer) => {
                return Ok(self.take_dial(protocol, address, random).map_or(Taken::Done, Taken::Dial));
            }
            (Packet::CloseDial { random }, Role::Answerer) => {
                if let Some(cancelled) = self.table().asked.remove(&random) {
                    cancelled.cancel();
                }
            }
            // An agent's answer that the dial came to nothing.
            (Packet::CloseDial { random }, Role::Dialer) => {
                let answer = self.table().dials.remove(&random);
                if let Some(answer) = answer {
                    let _ =
                        answer.send(Err(DialFailure::Refused(Refusal::from_go("dial closed".to_owned()))));
                }
            }
            // A second one is out of place, as below.
            (Packet::Drain, Role::Dialer) if !self.state.peer_drains.is_cancelled() => {
                self.state.peer_drains.cancel();
            }
            (Packet::Unknown(kind), _) => debug!(kind, "skipped a packet of a type unknown here"),
            (Packet::CloseRequest { .. } | Packet::DialRequest { .. } | Packet::Drain, Role::Dialer)
            | (Packet::CloseResponse { .. } | Packet::DialResponse { .. } | Packet::Drain, Role::Answerer) => {
                return Err(OutOfPlace);
            }
        }
        Ok(Taken::Done)
    }

    /// Returns the fill of the connection's queue, from 0 to 1.
    fn take_data(&self, connect_id: i64, data: Bytes) -> f64 {
        let conn = self.table().get(connect_id);
        let Some(conn) = conn else {
            self.refuse_data(connect_id);
            return 0.0;
        };
        let why = match conn.receive(&self.state.backlog, data) {
            Ok(fill) => return fill,
            Err(why) => why,
        };
        debug!(connect_id, %why, "closed a connection that nobody reads");
        if self.role() == Role::Answerer {
            self.table().remove(connect_id);
        }
        // As control: it must not wait for a turn, and the data before it is of no use.
        conn.ended(Err(why.clone()));
        self.control(&match self.role() {
            Role::Dialer => Packet::CloseRequest { connect_id },
            Role::Answerer => Packet::CloseResponse { error: why.to_string(), connect_id },
        });
        0.0
    }

    /// Answers data of a connection that does not exist.
    fn refuse_data(&self, connect_id: i64) {
        // A full queue drops the answer: its peer does not read.
        let _ = match self.role() {
            // Zero is no connection. Go's client sends it and expects no answer.
            _ if connect_id == 0 => true,
            Role::Dialer => self.control(&Packet::CloseRequest { connect_id }),
            Role::Answerer => self
                .control(&Packet::CloseResponse { error: "unrecognized connectID".to_owned(), connect_id }),
        };
    }

    fn take_closed(&self, connect_id: i64, error: &str) {
        // Agents answer the close of a connection that they have closed already.
        let conn = self.table().remove(connect_id);
        let Some(conn) = conn else { return };
        conn.ended(match error {
            "" => Ok(End::Closed),
            "connection reset by peer" => Err(Broken::Reset),
            other => Err(Broken::Protocol(format!("the agent closed it: {}", shown(other)))),
        });
    }

    fn take_close(&self, connect_id: i64) {
        let conn = self.table().get(connect_id);
        match conn {
            Some(conn) => {
                if conn.close_requested() {
                    self.ready(conn);
                }
            }
            None => {
                let error = "Unknown connectID".to_owned();
                self.control(&Packet::CloseResponse { error, connect_id });
            }
        }
    }

    fn take_answer(&self, error: String, connect_id: i64, random: i64) {
        let mut table = self.table();
        let answer = table.dials.remove(&random);
        if !error.is_empty() {
            if let Some(answer) = answer {
                let _ = answer.send(Err(DialFailure::Refused(Refusal::from_go(shown(&error)))));
            }
            return;
        }
        if connect_id <= 0 || table.conns.contains_key(&connect_id) {
            drop(table);
            if let Some(answer) = answer {
                let why = format!("connection id {connect_id}, which is not free");
                let _ = answer.send(Err(DialFailure::BadAnswer(why)));
            }
            return;
        }
        let conn = Conn::new(connect_id);
        if answer.is_some() {
            table.conns.insert(connect_id, Arc::clone(&conn));
        }
        drop(table);
        match answer {
            // Of a dial given up in the meantime, the dropped member closes the connection.
            Some(answer) => drop(answer.send(Ok(Member::new(self.clone(), conn)))),
            None => {
                self.control(&Packet::CloseRequest { connect_id });
            }
        }
    }

    fn take_dial(&self, protocol: String, address: String, random: i64) -> Option<PacketDial> {
        let mut table = self.table();
        // Failed dials use up an id as well, as at Konnectivity's agents.
        table.last_id += 1;
        let connect_id = table.last_id;
        if table.asked.contains_key(&random) || table.conns.len() + table.asked.len() >= MAX_CONNECTIONS {
            drop(table);
            let error = "too many connections, or a dial of this number is under way".to_owned();
            self.control(&Packet::DialResponse { error, connect_id: 0, random });
            return None;
        }
        let cancelled = CancellationToken::new();
        table.asked.insert(random, cancelled.clone());
        drop(table);
        let answered = false;
        Some(PacketDial { protocol, address, mux: self.clone(), random, connect_id, cancelled, answered })
    }
}

/// A peer's text without control characters, for logs and errors.
fn shown(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
