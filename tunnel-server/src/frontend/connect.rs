//! The HTTP CONNECT frontend: one request per connection, then raw bytes.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, timeout, timeout_at};
use tunnel::socket::Socket;
use tunnel_proto::connect::{ESTABLISHED, Head, HeadError, Status, parse, refusal};
use tunnel_proto::refusal::RefusalKind;
use tunnel_proto::target::Target;

use super::carried::Carried;
use super::record::Record;
use super::{Frontend, HEAD_LIMIT, send_all, watched};
use crate::clients::{Client, Refusal};
use crate::dial::error::{DialError, GivenUp};
use crate::metrics::ClientKind;

/// Time for which a refused client's bytes are read. With less, the close resets the connection
/// before the client has read the answer; more keeps sockets of clients that do not close.
const LINGER: Duration = Duration::from_secs(1);

/// The status of a failed dial.
const fn status(error: &DialError) -> Status {
    match error {
        DialError::NoAgent { .. } | DialError::NoneServes { .. } | DialError::AgentBusy { .. } => {
            Status::UNAVAILABLE
        }
        DialError::Denied(_) => Status::FORBIDDEN,
        DialError::AgentLost { .. } | DialError::BadAnswer { .. } => Status::BAD_GATEWAY,
        DialError::Timeout { .. } => Status::GATEWAY_TIMEOUT,
        DialError::Refused { refusal, .. } => match refusal.kind {
            RefusalKind::Refused | RefusalKind::Unreachable | RefusalKind::Dns | RefusalKind::Failed => {
                Status::BAD_GATEWAY
            }
            RefusalKind::Timeout => Status::GATEWAY_TIMEOUT,
            RefusalKind::Forbidden => Status::FORBIDDEN,
            RefusalKind::BadRequest => Status::BAD_REQUEST,
            RefusalKind::Draining | RefusalKind::Busy => Status::UNAVAILABLE,
        },
    }
}

/// Brings a client, of which at least one byte has come, to its relay. Returns `None` when there
/// is none; the client has been told why, unless it left.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    client: Arc<Client>,
    mut socket: Socket,
    deadline: Instant,
) -> Option<Box<Carried<Socket>>> {
    let head = tokio::select! {
        biased;
        () = frontend.drain.killed() => return None,
        head = timeout_at(deadline, read_head(&mut socket)) => head,
    };
    let target = match head {
        Ok(Ok(Ok(target))) => target,
        Ok(Ok(Err(error))) => {
            frontend.bad_client("bad_request", client.listener, &error.to_string());
            refuse(socket, error.status(), &error.to_string()).await;
            return None;
        }
        Ok(Err(error)) => {
            frontend.bad_client("no_request", client.listener, &error.to_string());
            return None;
        }
        Err(_) => {
            let why = "the request head did not end in time";
            frontend.bad_client("slow_request", client.listener, why);
            refuse(socket, Status::REQUEST_TIMEOUT, why).await;
            return None;
        }
    };
    let id = frontend.dialer.next_id();
    let record = Record::new(&frontend, ClientKind::Connect, client, id, target.to_string());
    dial(&frontend, socket, &target, record).await
}

async fn read_head(socket: &mut Socket) -> io::Result<Result<Target, HeadError>> {
    let mut head = BytesMut::with_capacity(1024);
    loop {
        if socket.read_buf(&mut head).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within the request head"));
        }
        match parse(&head) {
            Ok(Head::Partial) => {}
            Ok(Head::Complete { target, length }) => {
                socket.unread(head.split_off(length).freeze());
                return Ok(Ok(target));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

async fn dial(
    frontend: &Arc<Frontend>,
    mut socket: Socket,
    target: &Target,
    mut record: Record,
) -> Option<Box<Carried<Socket>>> {
    let client = Arc::clone(&record.client);
    let dial = frontend.dialer.dial(record.id, target, client.subject());
    let (dialed, early) = tokio::select! {
        biased;
        () = frontend.drain.killed() => {
            record.given_up(GivenUp::Killed);
            return None;
        }
        watched = watched(&mut socket, dial) => watched,
    };
    let dialed = match dialed {
        Some(Ok(dialed)) => dialed,
        Some(Err(error)) => {
            record.failed(&error);
            refuse(socket, status(&error), &error.to_string()).await;
            return None;
        }
        None => {
            record.given_up(GivenUp::Cancelled);
            return None;
        }
    };
    record.dialed(&dialed);
    socket.unread(early);
    let answer = Bytes::from_static(ESTABLISHED);
    if send_all(&mut socket, answer, Instant::now() + HEAD_LIMIT).await.is_err() {
        record.given_up(GivenUp::Unanswered);
        return None;
    }
    Some(Carried::new(socket, dialed, record))
}

async fn refuse(mut socket: Socket, status: Status, reason: &str) {
    let answer = refusal(status, reason);
    let told = async {
        socket.write_all(&answer).await?;
        socket.shutdown().await?;
        // A client that reads until the end closes now.
        let mut rest = [0; 1024];
        while socket.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // The answer is sent even if the client does not close in time.
    let _ = timeout(LINGER, told).await;
}

/// Refuses a request of a client that is not admitted.
pub(super) async fn refuse_client(socket: Socket, refusal: &Refusal) {
    refuse(socket, Status::FORBIDDEN, &refusal.text).await;
}

/// Refuses a request because of `--mode=grpc`.
pub(super) async fn refuse_mode(socket: Socket) {
    refuse(socket, Status::BAD_REQUEST, "this listener serves only grpc (--mode=grpc)").await;
}
