//! One `Proxy` call: the first packet, the dial, and then the relay.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::timeout;
use tunnel::duplex::{Abort, Broken, Duplex as _};
use tunnel::packets::Asked;
use tunnel::relay::relay;
use tunnel_proto::packet::Packet;
use tunnel_proto::target::Target;

use super::super::record::{GivenUp, Record};
use super::super::{Frontend, HEAD_LIMIT, HOLD, settle};
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

/// Serves one call to its end.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    listener: &'static str,
    send: SendStream<Bytes>,
    body: RecvStream,
) {
    let counted = &frontend.metrics.konnectivity;
    let mut send = Sender::new(send, counted.packets.to_client.clone(), counted.proxy_call());
    let mut packets = Packets::new(body, counted.packets.from_client.clone());
    let first = tokio::select! {
        biased;
        () = frontend.drain.killed() => return,
        first = timeout(HEAD_LIMIT, first_dial(&mut packets, &mut send)) => first,
    };
    let mut request = match first {
        Ok(Ok(Some(request))) => request,
        Ok(Ok(None)) => {
            frontend.bad_client("no_request", listener, "the call ended before a dial");
            return send.end(Code::Ok, "");
        }
        Ok(Err(error)) => {
            frontend.bad_client("bad_request", listener, &error.to_string());
            return send.end(Code::InvalidArgument, "malformed or unexpected packet");
        }
        Err(_) => {
            frontend.bad_client("slow_request", listener, "no dial in time");
            return send.end(Code::InvalidArgument, "no dial request in time");
        }
    };
    // Again only for clients that asked for another connection before the
    // first one failed; the answers do not wait for each other then.
    loop {
        let carrying = Carrying { frontend: &frontend, listener, packets, send };
        match carrying.serve(request).await {
            Some((rest, next)) => ((packets, send), request) = (rest, next),
            None => return,
        }
    }
}

/// A call without a connection.
struct Carrying<'a> {
    frontend: &'a Arc<Frontend>,
    listener: &'static str,
    packets: Packets,
    send: Sender,
}

impl Carrying<'_> {
    /// Serves a connection. Gives the call back when there was none and the
    /// client has asked for another one in the meantime.
    async fn serve(mut self, request: Request) -> Option<((Packets, Sender), Request)> {
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
                return None;
            }
            dialed = dial(frontend, id, &target, (&mut self.packets, &mut next), request.random) => dialed,
        };
        match dialed {
            Ok(Ok(dialed)) => {
                record.dialed(&dialed);
                self.relay(dialed, request.random, next, record).await;
                None
            }
            Ok(Err(error)) => {
                record.failed(&error);
                self.refuse(error.to_string(), &request, next)
            }
            Err(Gone::Left) => {
                record.given_up(GivenUp::Cancelled);
                if next.is_none() {
                    self.send.end(Code::Ok, "");
                }
                next.map(|next| ((self.packets, self.send), next))
            }
            Err(Gone::Broken(why)) => {
                record.given_up(GivenUp::Nonsense);
                frontend.bad_client("bad_request", listener, &why.to_string());
                self.send.end(Code::InvalidArgument, "unexpected packet while dialling");
                None
            }
        }
    }

    fn refuse(
        mut self,
        error: String,
        request: &Request,
        next: Option<Request>,
    ) -> Option<((Packets, Sender), Request)> {
        let answer = Packet::DialResponse { error, connect_id: 0, random: request.random };
        // A client that went away needs no answer.
        self.send.packet(&answer).ok()?;
        if next.is_none() {
            // Old clients leak the connection unless the call is ended here.
            self.send.end(Code::Ok, "");
        }
        next.map(|next| ((self.packets, self.send), next))
    }

    async fn relay(mut self, mut dialed: Dialed, random: i64, next: Option<Request>, mut record: Record) {
        // Never 0, which clients take for "none", and never negative.
        let connect_id = i64::try_from(record.id).unwrap_or(1);
        let answer = Packet::DialResponse { error: String::new(), connect_id, random };
        if self.send.packet(&answer).is_err() {
            return record.given_up(GivenUp::Unanswered);
        }
        record.established();
        let frontend = self.frontend;
        let client = Client::new(self.packets, self.send, connect_id, next.map(Request::into_packet));
        let mut client = Party::new(client, Arc::clone(frontend), self.listener);
        let meter = frontend.metrics.meter(ClientKind::Grpc, dialed.link);
        let ending = tokio::select! {
            biased;
            () = frontend.drain.killed() => return client.abort(Abort::Now),
            ending = relay(&mut client, &mut dialed.stream, Some(HOLD), &meter, &mut record.moved) => ending,
        };
        record.ended(ending);
        drop((record, client));
        settle(dialed, &frontend.drain).await;
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

/// Serves one more dial of a call that carries others already.
pub(super) async fn serve_asked(frontend: Arc<Frontend>, listener: &'static str, asked: Asked) {
    let id = frontend.dialer.next_id();
    let mut record = Record::new(&frontend, ClientKind::Grpc, (listener, id), shown(&asked.address));
    let target = match target_of(&asked.protocol, &asked.address) {
        Ok(target) => target,
        Err(text) => {
            record.given_up(GivenUp::BadRequest);
            return asked.refuse(text);
        }
    };
    let dialed = tokio::select! {
        biased;
        () = frontend.drain.killed() => return record.given_up(GivenUp::Killed),
        () = asked.cancelled() => return record.given_up(GivenUp::Cancelled),
        dialed = frontend.dialer.dial(id, &target) => dialed,
    };
    let mut dialed = match dialed {
        Ok(dialed) => dialed,
        Err(error) => {
            record.failed(&error);
            return asked.refuse(error.to_string());
        }
    };
    record.dialed(&dialed);
    let mut client = asked.accept();
    record.established();
    let meter = frontend.metrics.meter(ClientKind::Grpc, dialed.link);
    let ending = tokio::select! {
        biased;
        () = frontend.drain.killed() => return,
        ending = relay(&mut client, &mut dialed.stream, Some(HOLD), &meter, &mut record.moved) => ending,
    };
    record.ended(ending);
    drop((record, client));
    settle(dialed, &frontend.drain).await;
}
