//! HTTP CONNECT, byte for byte as the kube-apiserver sends it.
//!
//! One request on a new socket; after a 200 the socket is the connection.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::DialError;
use crate::options::{Early, Options, Protocol};

/// Longest answer head, in bytes. Refusals have under 1 KiB; above this the
/// peer speaks another protocol.
const MAX_HEAD: usize = 64 * 1024;

/// Bytes asked for at once while the head is read: the size of a Go client's
/// buffered reader, so that the same bytes count as read together with the head.
const READ: usize = 4096;

pub(crate) async fn dial(
    endpoint: &Endpoint,
    target: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<Connection, DialError> {
    let mut socket = endpoint.open(Protocol::Connect, options, &deadline).await?;
    let early = deadline.step("answer to CONNECT", handshake(&mut socket, target)).await??;
    if !early.is_empty() && options.early == Early::Fail {
        return Err(DialError::Early { count: early.len() });
    }
    Ok(Connection::over_socket(socket, early, options.close_timeout))
}

/// Sends the request and reads the answer, without a time limit. Returns the
/// bytes that were read together with the answer.
async fn handshake<S>(socket: &mut S, target: &str) -> Result<Bytes, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    socket.write_all(request.as_bytes()).await.map_err(DialError::Io)?;
    socket.flush().await.map_err(DialError::Io)?;
    let (mut head, early) = read_head(socket).await?;
    let line_end = head.windows(2).position(|pair| pair == b"\r\n").unwrap_or(head.len());
    head.truncate(line_end);
    match parse_status_line(&head)? {
        (200, _) => Ok(early),
        (code, reason) => Err(DialError::Status { code, reason }),
    }
}

/// Reads up to and including the empty line. Returns the head and the bytes
/// behind it.
async fn read_head<S: AsyncRead + Unpin>(socket: &mut S) -> Result<(Vec<u8>, Bytes), DialError> {
    let mut head = Vec::with_capacity(READ);
    loop {
        // The end may straddle two reads, by at most three bytes.
        let seen = head.len().saturating_sub(3);
        head.reserve(READ);
        let read = (&mut *socket).take(READ as u64).read_buf(&mut head).await.map_err(DialError::Io)?;
        if read == 0 {
            return Err(DialError::Ended);
        }
        if let Some(at) = head[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
            let early = Bytes::copy_from_slice(&head[seen + at + 4..]);
            head.truncate(seen + at + 4);
            return Ok((head, early));
        }
        if head.len() > MAX_HEAD {
            return Err(DialError::Malformed(format!("head over {MAX_HEAD} bytes")));
        }
    }
}

/// `HTTP/1.x CODE [REASON]`
fn parse_status_line(line: &[u8]) -> Result<(u16, String), DialError> {
    let line = String::from_utf8_lossy(line);
    let malformed = || DialError::Malformed(line.escape_debug().take(200).collect());
    let mut parts = line.splitn(3, ' ');
    let version = parts.next().unwrap_or_default();
    let code = parts.next().filter(|code| code.len() == 3).and_then(|code| code.parse().ok());
    let Some(code) = code else { return Err(malformed()) };
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err(malformed());
    }
    Ok((code, parts.next().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers any request with `answer`, in pieces of `piece` bytes.
    async fn ask(answer: &[u8], piece: usize) -> Result<Bytes, DialError> {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        let serve = async {
            let mut request = vec![0; b"CONNECT a:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".len()];
            theirs.read_exact(&mut request).await.unwrap();
            for piece in answer.chunks(piece) {
                // The client closes on a malformed answer.
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(theirs);
            request
        };
        let client = async {
            let result = handshake(&mut ours, "a:1").await;
            drop(ours);
            result
        };
        let (result, request) = tokio::join!(client, serve);
        assert_eq!(request, b"CONNECT a:1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        result
    }

    #[tokio::test]
    async fn a_200_in_pieces_of_any_size() {
        for piece in 1..50 {
            let early = ask(b"HTTP/1.1 200 Connection Established\r\nX: y\r\n\r\n", piece).await.unwrap();
            assert!(early.is_empty());
        }
        assert!(ask(b"HTTP/1.0 200\r\n\r\n", 64).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn bytes_read_together_with_the_200_are_reported() {
        let early = ask(b"HTTP/1.1 200 OK\r\n\r\nSSH-2.0", 64).await.unwrap();
        assert_eq!(early, "SSH-2.0");
    }

    #[tokio::test]
    async fn every_other_status_is_an_error_with_its_reason() {
        let error = ask(b"HTTP/1.1 503 no agent serves 10.0.3.7\r\nA: b\r\n\r\nbody", 7).await.unwrap_err();
        assert_eq!((error.status(), error.reason()), (Some(503), Some("no agent serves 10.0.3.7")));
        let error = ask(b"HTTP/1.1 201 Created\r\n\r\n", 64).await.unwrap_err();
        assert_eq!(error.status(), Some(201));
    }

    #[tokio::test]
    async fn a_malformed_answer_is_an_error() {
        for answer in [&b"SSH-2.0-OpenSSH\r\n\r\n"[..], b"HTTP/2 200 OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n"] {
            assert!(matches!(ask(answer, 64).await, Err(DialError::Malformed(_))));
        }
        assert!(matches!(ask(b"HTTP/1.1 200 OK\r\n", 64).await, Err(DialError::Ended)));
        assert!(matches!(ask(b"", 64).await, Err(DialError::Ended)));
        let long = [&b"HTTP/1.1 200 "[..], &vec![b'x'; MAX_HEAD + READ]].concat();
        assert!(matches!(ask(&long, 64).await, Err(DialError::Malformed(_))));
    }
}
