//! One `Proxy` call: the first packet and the dial, up to the relay.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::timeout;
use tunnel::duplex::Broken;
use tunnel::packets::{Asked, Member};
use tunnel_proto::packet::Packet;
use tunnel_proto::target::Target;

use super::super::carried::Carried;
use super::super::record::{GivenUp, Record};
use super::super::{Frontend, HEAD_LIMIT};
use super::Code;
use super::client::{Client, Packets};
use super::sender::Sender;
use super::shared::Party;
use crate::dial::{DialError, Dialed};
use crate::metrics::ClientKind;

/// The first dial of a call.
struct Request {
    protocol: String,
    address: String,
    random: i64,
}

impl Request {
    fn into_packet(self) -> Packet {
        Packet::DialRequest { protocol: self.protocol, address: self.address, random: self.random }
    }
}

/// Brings one call to where its connection is relayed; `None` when it does not
/// come to that.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    listener: &'static str,
    send: SendStream<Bytes>,
    body: RecvStream,
) -> Option<Box<Carried<Party>>> {
    let counted = &frontend.metrics.konnectivity;
    let mut send = Sender::new(send, counted.packets.to_client.clone(), counted.proxy_call());
    let mut packets = Packets::new(body, counted.packets.from_client.clone());
    let first = tokio::select! {
        biased;
        () = frontend.drain.killed() => return None,
        first = timeout(HEAD_LIMIT, first_dial(&mut packets, &mut send)) => first,
    };
    let mut request = match first {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => {
            frontend.bad_client("no_request", listener, "the call ended before a dial");
            send.end(Code::Ok, "");
            return None;
        }
        Ok(Err(error)) => {
            frontend.bad_client("bad_request", listener, &error.to_string());
            send.end(Code::InvalidArgument, "malformed or unexpected packet");
            return None;
        }
        Err(_) => {
            frontend.bad_client("slow_request", listener, "no dial in time");
            send.end(Code::InvalidArgument, "no dial request in time");
            return None;
        }
    };
    // Again only for clients that asked for another connection before the
    // first one failed; the answers do not wait for each other then.
    loop {
        let carrying = Carrying { frontend: &frontend, listener, packets, send };
        match carrying.serve(request).await {
            Served::Next(rest, next) => ((packets, send), request) = (*rest, next),
            Served::Connected(carried) => return Some(carried),
            Served::Over => return None,
        }
    }
}

/// What became of a dial.
enum Served {
    /// The client has its connection.
    Connected(Box<Carried<Party>>),
    /// It has not, and asked for another one in the meantime.
    Next(Box<(Packets, Sender)>, Request),
    /// The call is over.
    Over,
}

/// A call without a connection.
struct Carrying<'a> {
    frontend: &'a Arc<Frontend>,
    listener: &'static str,
    packets: Packets,
    send: Sender,
}

impl Carrying<'_> {
    /// Makes a connection.
    async fn serve(mut self, request: Request) -> Served {
        let (frontend, listener) = (self.frontend, self.listener);
        let id = frontend.dialer.next_id();
        let mut record = Record::new(frontend, ClientKind::Grpc, (listener, id), shown(&request.address));
        let target = match target_of(&request.protocol, &request.address) {
            Ok(target) => target,
            Err(text) => {
                record.given_up(GivenUp::BadRequest);
                return self.refuse(text, &request, None);
            }
        };
        let mut next = None;
        let dialed = tokio::select! {
            biased;
            () = frontend.drain.killed() => {
                record.given_up(GivenUp::Killed);
                return Served::Over;
            }
            dialed = dial(frontend, id, &target, (&mut self.packets, &mut next), request.random) => dialed,
        };
        match dialed {
            Ok(Ok(dialed)) => {
                record.dialed(&dialed);
                self.answer(dialed, request.random, next, record)
            }
            Ok(Err(error)) => {
                record.failed(&error);
                self.refuse(error.to_string(), &request, next)
            }
            Err(Gone::Left) => {
                record.given_up(GivenUp::Cancelled);
                self.go_on(next)
            }
            Err(Gone::Broken(why)) => {
                record.given_up(GivenUp::Nonsense);
                frontend.bad_client("bad_request", listener, &why.to_string());
                self.send.end(Code::InvalidArgument, "unexpected packet while dialling");
                Served::Over
            }
        }
    }

    fn refuse(mut self, error: String, request: &Request, next: Option<Request>) -> Served {
        let answer = Packet::DialResponse { error, connect_id: 0, random: request.random };
        // A client that went away needs no answer.
        if self.send.packet(&answer).is_err() {
            return Served::Over;
        }
        self.go_on(next)
    }

    fn go_on(mut self, next: Option<Request>) -> Served {
        if let Some(next) = next {
            return Served::Next(Box::new((self.packets, self.send)), next);
        }
        // Old clients leak the connection unless the call is ended here.
        self.send.end(Code::Ok, "");
        Served::Over
    }

    fn answer(mut self, dialed: Dialed, random: i64, next: Option<Request>, mut record: Record) -> Served {
        // Never 0, which clients take for "none", and never negative.
        let connect_id = i64::try_from(record.id).unwrap_or(1);
        let answer = Packet::DialResponse { error: String::new(), connect_id, random };
        if self.send.packet(&answer).is_err() {
            record.given_up(GivenUp::Unanswered);
            return Served::Over;
        }
        let frontend = self.frontend;
        let client = Client::new(self.packets, self.send, connect_id, next.map(Request::into_packet));
        let client = Party::new(client, Arc::clone(frontend), self.listener);
        Served::Connected(Carried::new(client, dialed, record))
    }
}

/// Reads up to the first dial. Closing what was never dialled is answered.
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
        let answer = Packet::CloseResponse { error: error.to_owned(), connect_id };
        send.packet(&answer)?;
        // Nothing was dialled, so there is nothing to wait for.
        return Ok(None);
    }
}

/// An address as it may be logged.
fn shown(address: &str) -> String {
    address.chars().take(300).flat_map(char::escape_default).collect()
}

fn target_of(protocol: &str, address: &str) -> Result<Target, String> {
    if protocol != "tcp" {
        let shown: String = protocol.chars().take(32).flat_map(char::escape_default).collect();
        return Err(format!("dial {shown}: unknown network {shown}"));
    }
    address.parse().map_err(|error| format!("dial tcp: {error}"))
}

/// The client, while its dial is under way.
enum Gone {
    /// It cancelled the dial, or left.
    Left,
    /// It said what makes no sense before the answer.
    Broken(Broken),
}

async fn dial(
    frontend: &Frontend,
    id: u64,
    target: &Target,
    (packets, next): (&mut Packets, &mut Option<Request>),
    random: i64,
) -> Result<Result<Dialed, DialError>, Gone> {
    let mut dial = pin!(frontend.dialer.dial(id, target));
    poll_fn(|cx| {
        if let Poll::Ready(dialed) = dial.as_mut().poll(cx) {
            return Poll::Ready(Ok(dialed));
        }
        // What comes behind another dial waits for the answer to this one.
        while next.is_none() {
            let gone = match packets.poll_next(cx) {
                Poll::Ready(Ok(Some(Packet::DialRequest { protocol, address, random }))) => {
                    *next = Some(Request { protocol, address, random });
                    break;
                }
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(Some(Packet::CloseDial { random: of }))) if of == random => Gone::Left,
                Poll::Ready(Ok(Some(Packet::CloseDial { .. } | Packet::Unknown(_)))) => continue,
                Poll::Ready(Ok(Some(_))) => {
                    Gone::Broken(Broken::Protocol("a packet before the dial was answered".to_owned()))
                }
                Poll::Ready(Ok(None) | Err(Broken::Reset | Broken::Lost(_))) => Gone::Left,
                Poll::Ready(Err(why)) => Gone::Broken(why),
            };
            return Poll::Ready(Err(gone));
        }
        Poll::Pending
    })
    .await
}

/// Makes one more connection on a call that carries others already.
pub(super) async fn serve_asked(
    frontend: Arc<Frontend>,
    listener: &'static str,
    asked: Asked,
) -> Option<Box<Carried<Member>>> {
    let id = frontend.dialer.next_id();
    let mut record = Record::new(&frontend, ClientKind::Grpc, (listener, id), shown(&asked.address));
    let target = match target_of(&asked.protocol, &asked.address) {
        Ok(target) => target,
        Err(text) => {
            record.given_up(GivenUp::BadRequest);
            asked.refuse(text);
            return None;
        }
    };
    let dialed = tokio::select! {
        biased;
        () = frontend.drain.killed() => {
            record.given_up(GivenUp::Killed);
            return None;
        }
        () = asked.cancelled() => {
            record.given_up(GivenUp::Cancelled);
            return None;
        }
        dialed = frontend.dialer.dial(id, &target) => dialed,
    };
    let dialed = match dialed {
        Ok(dialed) => dialed,
        Err(error) => {
            record.failed(&error);
            asked.refuse(error.to_string());
            return None;
        }
    };
    record.dialed(&dialed);
    Some(Carried::new(asked.accept(), dialed, record))
}
