//! The fake frontend's gRPC: one dial per stream.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};

use super::fault::{Fault, Source, connect};

/// The id of every connection; a stream carries only one.
const ID: i64 = 7_000_000_001;

/// Upper bound of a DATA packet without its payload, in bytes.
const HEAD: usize = 32;

pub(super) async fn serve<S>(socket: S, fault: Fault) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = h2::server::handshake(socket).await.map_err(io::Error::other)?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted.map_err(io::Error::other)?;
        streams.spawn(async move {
            // A stream that fails is reset when its halves are dropped.
            let _ = stream(request, respond, fault).await;
        });
        while streams.try_join_next().is_some() {}
    }
    Ok(())
}

async fn stream(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    fault: Fault,
) -> io::Result<()> {
    let mut packets = Packets { body: request.into_body(), deframer: Deframer::grpc(MAX_MESSAGE) };
    let Some(Packet::DialRequest { address, random, .. }) = packets.next().await? else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let (target, error) = match connect(&address, fault).await {
        Ok(target) => (Some(target), String::new()),
        Err(error) => (None, error),
    };
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(head, false).map_err(io::Error::other)?;
    let connect_id = if target.is_some() { ID } else { 0 };
    let mut answer = BytesMut::from(&Packet::DialResponse { error, connect_id, random }.encode()[..]);
    if let Fault::Early(bytes) = fault {
        let early = Packet::Data { connect_id, data: Bytes::from_static(bytes) };
        answer.extend_from_slice(&early.encode());
    }
    send.send_data(answer.freeze(), false).map_err(io::Error::other)?;
    if let Some(target) = target {
        relay(&mut packets, &mut send, target, fault).await?;
        let closed = Packet::CloseResponse { error: String::new(), connect_id };
        send.send_data(closed.encode(), false).map_err(io::Error::other)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers).map_err(io::Error::other)
}

/// Runs until either side ends.
async fn relay(
    packets: &mut Packets,
    send: &mut SendStream<Bytes>,
    target: TcpStream,
    fault: Fault,
) -> io::Result<()> {
    let (from_target, mut to_target) = target.into_split();
    let connect_id = if fault == Fault::Foreign { ID + 1 } else { ID };
    let mut source = Source::new(from_target, fault);
    let spoken = Arc::clone(&source.spoken);
    let down = async {
        loop {
            let bytes = source.next().await?;
            if bytes.is_empty() {
                return Ok(());
            }
            let mut bytes = Bytes::from(bytes);
            while !bytes.is_empty() {
                let room = room(send, bytes.len()).await?;
                let data = bytes.split_to(room.min(bytes.len()));
                let packet = Packet::Data { connect_id, data };
                send.send_data(packet.encode(), false).map_err(io::Error::other)?;
            }
        }
    };
    tokio::select! {
        end = up(packets, &mut to_target, &spoken) => end,
        end = down => end,
    }
}

/// Ends with the client's CLOSE_REQ.
async fn up(packets: &mut Packets, target: &mut OwnedWriteHalf, spoken: &Notify) -> io::Result<()> {
    while let Some(packet) = packets.next().await? {
        match packet {
            Packet::CloseRequest { connect_id: ID } => return Ok(()),
            Packet::Data { connect_id: ID, data } => {
                spoken.notify_one();
                target.write_all(&data).await?;
            }
            Packet::CloseDial { .. }
            | Packet::CloseRequest { .. }
            | Packet::CloseResponse { .. }
            | Packet::Data { .. }
            | Packet::DialRequest { .. }
            | Packet::DialResponse { .. }
            | Packet::Drain
            | Packet::Unknown(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

async fn room(send: &mut SendStream<Bytes>, want: usize) -> io::Result<usize> {
    send.reserve_capacity(want + HEAD);
    loop {
        if send.capacity() > HEAD {
            return Ok(send.capacity() - HEAD);
        }
        match poll_fn(|cx| send.poll_capacity(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

struct Packets {
    body: RecvStream,
    deframer: Deframer,
}

impl Packets {
    async fn next(&mut self) -> io::Result<Option<Packet>> {
        loop {
            if let Some(message) = self.deframer.next().map_err(io::Error::other)? {
                return Packet::decode(message).map(Some).map_err(io::Error::other);
            }
            let Some(bytes) = self.body.data().await else { return Ok(None) };
            let bytes = bytes.map_err(io::Error::other)?;
            self.body.flow_control().release_capacity(bytes.len()).map_err(io::Error::other)?;
            self.deframer.push(bytes);
        }
    }
}
