//! The dial on one gRPC stream: DIAL_REQ out, DIAL_RSP in.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use tunnel_proto::deframe::{DeframeError, Deframer};
use tunnel_proto::packet::{MAX_MESSAGE, PROXY_PATH, Packet, PacketError};

use super::stream::{Reader, Stream, Writer};
use crate::connection::Connection;
use crate::driver::Driver;
use crate::{DialError, Early, Options};

/// A dial that worked, before anything was read behind its answer.
pub(super) struct Answered {
    send: SendStream<Bytes>,
    receive: RecvStream,
    deframer: Deframer,
    connect_id: i64,
}

/// Opens a stream and dials on it. Has no limit of time of its own; dropping
/// it resets the stream.
pub(super) async fn dial(
    mut requests: SendRequest<Bytes>,
    scheme: &str,
    target: &str,
) -> Result<Answered, DialError> {
    let (response, mut send) = requests.send_request(request(scheme)?, false)?;
    // Positive, as Go's rand.Int63 gives it.
    let random = i64::from_ne_bytes(rand::random::<[u8; 8]>()) & i64::MAX;
    let dial = Packet::DialRequest { protocol: "tcp".into(), address: target.into(), random };
    send.send_data(dial.encode(), false)?;

    // The headers may be held back until the answer is known, so the packet
    // above does not wait for them.
    let response = response.await?;
    if response.status() != StatusCode::OK {
        return Err(DialError::Status { code: response.status().as_u16(), reason: String::new() });
    }
    grpc_status(response.headers())?;
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
        .map_err(|error| DialError::Malformed(error.to_string()))
}

/// Waits for the answer to our dial; packets of other kinds do not belong
/// here, because a stream carries one dial.
async fn answer(receive: &mut RecvStream, deframer: &mut Deframer, ours: i64) -> Result<i64, DialError> {
    loop {
        while let Some(message) = deframer.next()? {
            match Packet::decode(message)? {
                Packet::DialResponse { random, .. } if random != ours => {
                    return Err(DialError::Malformed(format!("answer to dial {random}, not {ours}")));
                }
                Packet::DialResponse { error, connect_id, .. } if error.is_empty() => return Ok(connect_id),
                Packet::DialResponse { error, .. } => return Err(DialError::Refused { reason: error }),
                Packet::CloseDial { .. } => return Err(DialError::Refused { reason: "dial closed".into() }),
                Packet::Drain | Packet::Unknown(_) => {}
                other @ (Packet::CloseRequest { .. }
                | Packet::CloseResponse { .. }
                | Packet::Data { .. }
                | Packet::DialRequest { .. }) => {
                    return Err(DialError::Malformed(format!("{other:?} before the answer to the dial")));
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

/// The error in headers or trailers, if there is one.
pub(super) fn grpc_status(fields: &HeaderMap) -> Result<(), DialError> {
    let text = |name| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // 2 is UNKNOWN: what a status that cannot be read amounts to.
    match text("grpc-status").map(|code| code.parse().unwrap_or(2)) {
        None | Some(0) => Ok(()),
        Some(code) => Err(DialError::GrpcStatus { code, message: text("grpc-message").unwrap_or_default() }),
    }
}

impl From<DeframeError> for DialError {
    fn from(error: DeframeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<PacketError> for DialError {
    fn from(error: PacketError) -> Self {
        Self::Malformed(error.to_string())
    }
}
