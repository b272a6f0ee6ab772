//! What the connections of a stream are called, and what a packet means.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_proto::packet::Packet;
use tunnel_proto::refusal::Refusal;

use super::conn::{Conn, Member};
use super::dial::Asked;
use super::{Mux, Role};
use crate::duplex::{Broken, End};
use crate::transport::DialFailure;

/// Connections of one stream, those being closed included.
const MAX_CONNECTIONS: usize = 1 << 16;

/// Where the answer to a dial goes.
pub(super) type Answer = oneshot::Sender<Result<Member, DialFailure>>;

#[derive(Debug, Default)]
pub(super) struct Table {
    conns: HashMap<i64, Arc<Conn>>,
    /// Dials of ours, by the number that the answer will carry.
    dials: HashMap<i64, Answer>,
    /// Dials of the peer that are being made, by the peer's number.
    asked: HashMap<i64, CancellationToken>,
    /// The newest connection id that this side gave.
    last_id: i64,
    closed: Option<String>,
}

impl Table {
    pub(super) fn why(&self) -> &str {
        self.closed.as_deref().unwrap_or_default()
    }

    /// The first reason is the true one.
    pub(super) fn set_closed(&mut self, why: &str) {
        self.closed.get_or_insert_with(|| why.to_owned());
    }

    /// Remembers a dial of ours.
    pub(super) fn dial(&mut self, random: i64, answer: Answer) -> Result<(), DialFailure> {
        if let Some(why) = &self.closed {
            return Err(DialFailure::Lost(why.clone()));
        }
        if self.conns.len() + self.dials.len() >= MAX_CONNECTIONS {
            return Err(DialFailure::Busy);
        }
        self.dials.insert(random, answer);
        Ok(())
    }

    /// Forgets a dial; whether it was still open.
    pub(super) fn forget_dial(&mut self, random: i64) -> bool {
        self.dials.remove(&random).is_some()
    }

    /// Remembers a connection made for the peer.
    pub(super) fn insert(&mut self, conn: Arc<Conn>, random: i64) {
        self.asked.remove(&random);
        if self.closed.is_none() {
            self.conns.insert(conn.id, conn);
        } else {
            conn.ended(Err(Broken::Lost(self.why().to_owned())));
        }
    }

    pub(super) fn forget_asked(&mut self, random: i64) {
        self.asked.remove(&random);
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Arc<Conn>> {
        self.conns.remove(&id)
    }

    fn get(&self, id: i64) -> Option<Arc<Conn>> {
        self.conns.get(&id).cloned()
    }

    /// The stream is over: everything that hung on it, to be told so.
    pub(super) fn clear(&mut self) -> (Vec<Arc<Conn>>, Vec<Answer>) {
        for (_, cancelled) in self.asked.drain() {
            cancelled.cancel();
        }
        let conns = self.conns.drain().map(|(_, conn)| conn).collect();
        (conns, self.dials.drain().map(|(_, answer)| answer).collect())
    }
}

/// What a packet leaves to be done.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing.
    Done,
    /// A dial of the peer, for somebody to make.
    Asked(Asked),
    /// So many bytes went into a queue that is this full, from 0 to 1.
    Queued { bytes: usize, fill: f64 },
}

/// A packet that this side never gets from a peer that means well.
#[derive(Debug)]
pub(super) struct OutOfPlace;

impl Mux {
    /// Does what a packet says.
    pub(super) fn take(&self, packet: Packet) -> Result<Taken, OutOfPlace> {
        match (packet, self.shared.role) {
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
                return Ok(self.take_dial(protocol, address, random).map_or(Taken::Done, Taken::Asked));
            }
            (Packet::CloseDial { random }, Role::Answerer) => {
                if let Some(cancelled) = self.table().asked.remove(&random) {
                    cancelled.cancel();
                }
            }
            // An agent's word that the dial came to nothing.
            (Packet::CloseDial { random }, Role::Dialer) => {
                let answer = self.table().dials.remove(&random);
                if let Some(answer) = answer {
                    let _ =
                        answer.send(Err(DialFailure::Refused(Refusal::from_go("dial closed".to_owned()))));
                }
            }
            (Packet::Drain, Role::Dialer) => self.shared.peer_drains.cancel(),
            (Packet::Unknown(kind), _) => debug!(kind, "skipped a packet of a type unknown here"),
            (Packet::CloseRequest { .. } | Packet::DialRequest { .. }, Role::Dialer)
            | (Packet::CloseResponse { .. } | Packet::DialResponse { .. } | Packet::Drain, Role::Answerer) => {
                return Err(OutOfPlace);
            }
        }
        Ok(Taken::Done)
    }

    /// How full the connection's queue is now.
    fn take_data(&self, connect_id: i64, data: Bytes) -> f64 {
        let conn = self.table().get(connect_id);
        let Some(conn) = conn else {
            self.refuse_data(connect_id);
            return 0.0;
        };
        let why = match conn.receive(self, data) {
            Ok(fill) => return fill,
            Err(why) => why,
        };
        debug!(connect_id, %why, "closed a connection that nobody reads");
        if self.shared.role == Role::Answerer {
            self.table().remove(connect_id);
        }
        // Whoever writes it must not wait for a turn, so it goes as control;
        // what was still to be sent for this connection is of no use any more.
        conn.ended(Err(why.clone()));
        self.control(&match self.shared.role {
            Role::Dialer => Packet::CloseRequest { connect_id },
            Role::Answerer => Packet::CloseResponse { error: why.to_string(), connect_id },
        });
        0.0
    }

    /// Data of a connection that is not there, or not any more.
    fn refuse_data(&self, connect_id: i64) {
        // Full queues drop answers to nonsense; whoever sends it is not reading.
        let _ = match self.shared.role {
            // Zero is no connection. Go's client sends it, and expects nothing.
            _ if connect_id == 0 => true,
            Role::Dialer => self.control(&Packet::CloseRequest { connect_id }),
            Role::Answerer => self
                .control(&Packet::CloseResponse { error: "unrecognized connectID".to_owned(), connect_id }),
        };
    }

    fn take_closed(&self, connect_id: i64, error: &str) {
        // Agents answer a close of what they have closed already; that is not news.
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
            // Given up in the meantime: dropping the member closes it.
            Some(answer) => drop(answer.send(Ok(Member::new(self.clone(), conn)))),
            None => {
                self.control(&Packet::CloseRequest { connect_id });
            }
        }
    }

    fn take_dial(&self, protocol: String, address: String, random: i64) -> Option<Asked> {
        let mut table = self.table();
        // Counts dials that fail as well, as Konnectivity's agents do.
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
        Some(Asked::new(self.clone(), protocol, address, (random, connect_id), cancelled))
    }
}

/// A peer's text, fit for our logs and errors.
fn shown(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
