//! One `Proxy` call: the first packet, the dial, and then the relay.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::time::timeout;
use tunnel::duplex::{Abort, Broken, Duplex as _};
use tunnel::relay::relay;
use tunnel_proto::packet::Packet;
use tunnel_proto::target::Target;

use super::super::record::{GivenUp, Record};
use super::super::{Frontend, HEAD_LIMIT, HOLD, settle};
use super::Code;
use super::client::{Client, Packets};
use super::sender::Sender;
use crate::dial::{DialError, Dialed};
use crate::metrics::ClientKind;

/// The first dial of a call.
struct Request {
    protocol: String,
    address: String,
    random: i64,
}

/// Serves one call to its end.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    listener: &'static str,
    send: SendStream<Bytes>,
    body: RecvStream,
) {
    let counted = &frontend.metrics.konnectivity;
    let open = counted.proxy_call();
    let mut send = Sender::new(send, counted.packets.to_client.clone());
    let mut packets = Packets::new(body, counted.packets.from_client.clone());
    let first = tokio::select! {
        biased;
        () = frontend.drain.killed() => return,
        first = timeout(HEAD_LIMIT, first_dial(&mut packets, &mut send)) => first,
    };
    let request = match first {
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
    let id = frontend.dialer.next_id();
    let shown = request.address.chars().take(300).flat_map(char::escape_default).collect();
    let mut record = Record::new(&frontend, ClientKind::Grpc, listener, id, shown, open);
    let target = match target_of(&request) {
        Ok(target) => target,
        Err(text) => {
            record.given_up(GivenUp::BadRequest);
            return refuse(&mut send, text, request.random);
        }
    };
    let dialed = tokio::select! {
        biased;
        () = frontend.drain.killed() => return record.given_up(GivenUp::Killed),
        dialed = dial(&frontend, id, &target, &mut packets, request.random) => dialed,
    };
    match dialed {
        Ok(Ok(dialed)) => {
            record.dialed(&dialed);
            relay_call(&frontend, packets, send, dialed, request.random, record).await;
        }
        Ok(Err(error)) => {
            record.failed(&error);
            refuse(&mut send, error.to_string(), request.random);
        }
        Err(Gone::Left) => {
            record.given_up(GivenUp::Cancelled);
            send.end(Code::Ok, "");
        }
        Err(Gone::Broken(why)) => {
            record.given_up(GivenUp::Nonsense);
            frontend.bad_client("bad_request", listener, &why.to_string());
            send.end(Code::InvalidArgument, "unexpected packet while dialling");
        }
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

fn target_of(request: &Request) -> Result<Target, String> {
    if request.protocol != "tcp" {
        let shown: String = request.protocol.chars().take(32).flat_map(char::escape_default).collect();
        return Err(format!("dial {shown}: unknown network {shown}"));
    }
    request.address.parse().map_err(|error| format!("dial tcp: {error}"))
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
    packets: &mut Packets,
    random: i64,
) -> Result<Result<Dialed, DialError>, Gone> {
    let mut dial = pin!(frontend.dialer.dial(id, target));
    poll_fn(|cx| {
        if let Poll::Ready(dialed) = dial.as_mut().poll(cx) {
            return Poll::Ready(Ok(dialed));
        }
        loop {
            let gone = match packets.poll_next(cx) {
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
    })
    .await
}

fn refuse(send: &mut Sender, error: String, random: i64) {
    let answer = Packet::DialResponse { error, connect_id: 0, random };
    // A client that went away needs no answer. Old ones leak the connection
    // unless the call is ended here.
    if send.packet(&answer).is_ok() {
        send.end(Code::Ok, "");
    }
}

async fn relay_call(
    frontend: &Frontend,
    packets: Packets,
    mut send: Sender,
    mut dialed: Dialed,
    random: i64,
    mut record: Record,
) {
    // Never 0, which clients take for "none", and never negative.
    let connect_id = i64::try_from(record.id).unwrap_or(1);
    let answer = Packet::DialResponse { error: String::new(), connect_id, random };
    if send.packet(&answer).is_err() {
        return record.given_up(GivenUp::Unanswered);
    }
    record.established();
    let mut client = Client::new(packets, send, connect_id);
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
