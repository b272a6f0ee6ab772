//! The dial on one gRPC stream: DIAL_REQ out, DIAL_RSP in.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, PROXY_PATH, Packet};

use crate::connection::Connection;
use crate::driver::Driver;
use crate::error::DialError;
use crate::options::{Early, Options};
use crate::stream::{Reader, Stream, Writer, grpc_status};

/// A connected dial, before bytes behind its answer are read.
pub(super) struct Answered {
    send: SendStream<Bytes>,
    receive: RecvStream,
    deframer: Deframer,
    connect_id: i64,
}

/// Opens a stream and dials on it, without a time limit. Dropping the future
/// resets the stream.
pub(super) async fn dial(
    mut requests: SendRequest<Bytes>,
    scheme: &str,
    target: &str,
) -> Result<Answered, DialError> {
    let (response, mut send) = requests.send_request(request(scheme)?, false)?;
    // Positive, as Go's rand.Int63 gives it.
    let random = i64::from_ne_bytes(rand::random::<[u8; 8]>()) & i64::MAX;
    let dial = Packet::DialRequest { protocol: "tcp".into(), address: target.into(), random };
    let sent = send.send_data(dial.encode(), false);

    // The packet goes out first: a frontend may hold its headers back until the
    // answer is known. One that refuses the call may do so before the packet: its
    // status says more than the failure to send.
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(DialError::Status { code: response.status().as_u16(), reason: String::new() });
    }
    grpc_status(response.headers())?;
    sent?;
    let mut receive = response.into_body();
    let mut deframer = Deframer::grpc(MAX_MESSAGE);
    let connect_id = answer(&mut receive, &mut deframer, random).await?;
    Ok(Answered { send, receive, deframer, connect_id })
}

impl Answered {
    pub(super) fn into_connection(
        self,
        driver: Arc<Driver>,
        options: &Options,
    ) -> Result<Connection, DialError> {
        let Self { send, receive, deframer, connect_id } = self;
        let mut reader = Reader::new(receive, deframer, connect_id);
        let early = reader.ready_bytes().map_err(DialError::Io)?;
        if early > 0 && options.early == Early::Fail {
            return Err(DialError::Early { count: early });
        }
        let stream = Stream::new(reader, Writer::new(send, connect_id), driver);
        Ok(Connection::over_stream(stream, early > 0, options.close_timeout))
    }
}

fn request(scheme: &str) -> Result<Request<()>, DialError> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://localhost{PROXY_PATH}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(malformed)
}

/// Waits for the answer to the dial and returns its connection id. Packets of a
/// connection are malformed here, because a stream carries one dial.
async fn answer(receive: &mut RecvStream, deframer: &mut Deframer, ours: i64) -> Result<i64, DialError> {
    loop {
        while let Some(message) = deframer.next().map_err(malformed)? {
            match Packet::decode(message).map_err(malformed)? {
                Packet::DialResponse { random, .. } if random != ours => {
                    return Err(malformed(format_args!("answer to dial {random}, not {ours}")));
                }
                Packet::DialResponse { error, connect_id, .. } if error.is_empty() => return Ok(connect_id),
                Packet::DialResponse { error, .. } => return Err(DialError::Refused { reason: error }),
                Packet::CloseDial { .. } => return Err(DialError::Refused { reason: "dial closed".into() }),
                Packet::Drain | Packet::Unknown(_) => {}
                other @ (Packet::CloseRequest { .. }
                | Packet::CloseResponse { .. }
                | Packet::Data { .. }
                | Packet::DialRequest { .. }) => {
                    return Err(malformed(format_args!("{other:?} before the answer to the dial")));
                }
            }
        }
        let Some(bytes) = receive.data().await else {
            let trailers = receive.trailers().await?;
            grpc_status(&trailers.unwrap_or_default())?;
            return Err(DialError::Ended);
        };
        let bytes = bytes?;
        receive.flow_control().release_capacity(bytes.len())?;
        deframer.push(bytes);
    }
}

fn malformed(error: impl std::fmt::Display) -> DialError {
    DialError::Malformed(error.to_string())
}
