//! One `Proxy` call from its first packet to its relay.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::timeout;
use tunnel::duplex::Broken;
use tunnel_proto::packet::Packet;
use tunnel_proto::target::Target;

use super::super::carried::Carried;
use super::super::record::Record;
use super::super::{Frontend, HEAD_LIMIT};
use super::Code;
use super::client::{Client, Packets};
use super::sender::Sender;
use crate::clients as caller;
use crate::dial::Dialed;
use crate::dial::error::{DialError, GivenUp};
use crate::metrics::ClientKind;

/// The dial of a call.
struct Request {
    protocol: String,
    address: String,
    random: i64,
}

/// Brings a call to its relay. Returns `None` when there is none; the client has been told why,
/// unless it left.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    client: Arc<caller::Client>,
    send: SendStream<Bytes>,
    body: RecvStream,
) -> Option<Box<Carried<Client>>> {
    let counters = frontend.metrics.packets_of_client();
    let mut send = Sender::new(send, counters.sent, frontend.metrics.call());
    let mut packets = Packets::new(body, counters.received, counters.begun);
    let first = tokio::select! {
        biased;
        () = frontend.drain.killed() => return None,
        first = timeout(HEAD_LIMIT, first_dial(&mut packets, &mut send)) => first,
    };
    let request = match first {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => {
            frontend.bad_client("no_request", client.listener, "the call ended before a dial");
            send.end(Code::Ok, "");
            return None;
        }
        Ok(Err(error)) => {
            frontend.bad_client("bad_request", client.listener, &error.to_string());
            send.end(Code::InvalidArgument, "malformed or unexpected packet");
            return None;
        }
        Err(_) => {
            frontend.bad_client("slow_request", client.listener, "no dial in time");
            send.end(Code::InvalidArgument, "no dial request in time");
            return None;
        }
    };
    Dialling { frontend: &frontend, client, packets, send }.serve(request).await
}

/// A call whose dial is under way.
struct Dialling<'a> {
    frontend: &'a Arc<Frontend>,
    client: Arc<caller::Client>,
    packets: Packets,
    send: Sender,
}

impl Dialling<'_> {
    async fn serve(mut self, request: Request) -> Option<Box<Carried<Client>>> {
        let frontend = self.frontend;
        let id = frontend.dialer.next_id();
        let shown = shown(&request.address, 300);
        let mut record = Record::new(frontend, ClientKind::Grpc, Arc::clone(&self.client), id, shown);
        let target = match target_of(&request) {
            Ok(target) => target,
            Err(error) => {
                record.given_up(GivenUp::BadRequest);
                self.refuse(error, request.random);
                return None;
            }
        };
        let dialed = tokio::select! {
            biased;
            () = frontend.drain.killed() => {
                record.given_up(GivenUp::Killed);
                return None;
            }
            dialed = self.dial(id, &target, request.random) => dialed,
        };
        match dialed {
            Ok(Ok(dialed)) => {
                record.dialed(&dialed);
                self.answer(dialed, request.random, record)
            }
            Ok(Err(error)) => {
                record.failed(&error);
                self.refuse(error.to_string(), request.random);
                None
            }
            Err(Gone::Left) => {
                record.given_up(GivenUp::Cancelled);
                self.send.end(Code::Ok, "");
                None
            }
            Err(Gone::Broken(why)) => {
                record.given_up(GivenUp::Nonsense);
                frontend.bad_client("bad_request", self.client.listener, &why.to_string());
                self.send.end(Code::InvalidArgument, "unexpected packet while dialling");
                None
            }
        }
    }

    /// Dials, until the client cancels the dial or leaves.
    async fn dial(
        &mut self,
        id: u64,
        target: &Target,
        random: i64,
    ) -> Result<Result<Dialed, DialError>, Gone> {
        let mut dial = pin!(self.frontend.dialer.dial(id, target, self.client.subject()));
        poll_fn(|cx| {
            if let Poll::Ready(dialed) = dial.as_mut().poll(cx) {
                return Poll::Ready(Ok(dialed));
            }
            loop {
                let gone = match self.packets.poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(Packet::CloseDial { random: of }))) if of == random => Gone::Left,
                    Poll::Ready(Ok(Some(Packet::CloseDial { .. } | Packet::Unknown(_)))) => continue,
                    Poll::Ready(Ok(Some(Packet::DialRequest { random, .. }))) => {
                        match self.packets.answer(&mut self.send, &second_dial(random)) {
                            Ok(()) => continue,
                            Err(why) => Gone::Broken(why),
                        }
                    }
                    Poll::Ready(Ok(Some(_))) => {
                        Gone::Broken(Broken::Protocol("a packet before the dial was answered".to_owned()))
                    }
                    Poll::Ready(Ok(None) | Err(Broken::Reset | Broken::Lost(_))) => Gone::Left,
                    Poll::Ready(Err(why)) => Gone::Broken(why),
                };
                return Poll::Ready(Err(gone));
            }
        })
        .await
    }

    fn refuse(mut self, error: String, random: i64) {
        let answer = Packet::DialResponse { error, connect_id: 0, random };
        // Old clients leak the connection unless the call is ended here.
        if self.send.packet(&answer).is_ok() {
            self.send.end(Code::Ok, "");
        }
    }

    fn answer(mut self, dialed: Dialed, random: i64, mut record: Record) -> Option<Box<Carried<Client>>> {
        // Clients take 0 for "none".
        let connect_id = i64::try_from(record.id).unwrap_or(1);
        let answer = Packet::DialResponse { error: String::new(), connect_id, random };
        if self.send.packet(&answer).is_err() {
            record.given_up(GivenUp::Unanswered);
            return None;
        }
        Some(Carried::new(Client::new(self.packets, self.send, connect_id), dialed, record))
    }
}

/// The answer to a second dial on a call, which no known client makes.
pub(super) fn second_dial(random: i64) -> Packet {
    let error = "this call carries a connection already; make one call per connection".to_owned();
    Packet::DialResponse { error, connect_id: 0, random }
}

/// Reads up to the first dial; `None` if the call ends before. A packet of a connection that was
/// never dialled is answered and ends the call.
async fn first_dial(packets: &mut Packets, send: &mut Sender) -> Result<Option<Request>, Broken> {
    loop {
        let Some(packet) = poll_fn(|cx| packets.poll_next(cx)).await? else { return Ok(None) };
        let (connect_id, error) = match packet {
            Packet::DialRequest { protocol, address, random } => {
                return Ok(Some(Request { protocol, address, random }));
            }
            Packet::CloseRequest { connect_id } => (connect_id, "backend uninitialized"),
            Packet::Data { connect_id, data } => {
                packets.consumed(data.len());
                (connect_id, "backend not initialized")
            }
            Packet::CloseDial { .. } => return Ok(None),
            Packet::Unknown(_) => continue,
            Packet::DialResponse { .. } | Packet::CloseResponse { .. } | Packet::Drain => {
                return Err(Broken::Protocol("a packet that only agents send".to_owned()));
            }
        };
        send.packet(&Packet::CloseResponse { error: error.to_owned(), connect_id })?;
        return Ok(None);
    }
}

/// At most `most` characters of a client's text, escaped for logs.
fn shown(text: &str, most: usize) -> String {
    text.chars().take(most).flat_map(char::escape_default).collect()
}

fn target_of(request: &Request) -> Result<Target, String> {
    if request.protocol != "tcp" {
        let shown = shown(&request.protocol, 32);
        return Err(format!("dial {shown}: unknown network {shown}"));
    }
    request.address.parse().map_err(|error| format!("dial tcp: {error}"))
}

/// Why a dial ended before its answer.
enum Gone {
    /// The client cancelled the dial, or left.
    Left,
    /// The client broke the protocol.
    Broken(Broken),
}
