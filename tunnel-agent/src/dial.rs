//! Connecting to a target, with errors in the shape that Go's dialler gives
//! them: operators search their logs, and other programs match, for those.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tunnel::listen::tune;
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::{Host, Target};

/// Least time that one of several addresses gets.
const LEAST: Duration = Duration::from_secs(2);

/// Connects to `target`, trying its addresses in the resolver's order, within
/// `limit` altogether. Cancel safe: dropping it gives the attempt up.
///
/// # Errors
/// With a refusal that names what failed.
pub(crate) async fn connect(target: &Target, limit: Duration) -> Result<(TcpStream, SocketAddr), Refusal> {
    let deadline = Instant::now() + limit;
    let addrs = resolve(target, deadline).await?;
    connect_any(target, &addrs, deadline).await
}

/// Connects to one of a target's addresses, in their order. Cancel safe.
///
/// # Errors
/// With the refusal of the last one.
pub(crate) async fn connect_any(
    target: &Target,
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let mut last = None;
    for (tried, addr) in addrs.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addrs.len() - tried).unwrap_or(u32::MAX);
        let share = (left / others).max(LEAST).min(left);
        match timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => {
                tune(&stream);
                return Ok((stream, *addr));
            }
            Ok(Err(error)) => last = Some(refusal(*addr, &error)),
            Err(_) => last = Some(timed_out(*addr)),
        }
    }
    Err(last.unwrap_or_else(|| no_such_host(target)))
}

/// The addresses of a target, at least one. Cancel safe.
///
/// # Errors
/// With a refusal that names what failed.
pub(crate) async fn resolve(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, Refusal> {
    let name = match target.host() {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port())]),
        Host::Name(name) => name,
    };
    let error = match timeout_at(deadline, lookup_host((name.as_str(), target.port()))).await {
        Ok(Ok(addrs)) => {
            let addrs: Vec<SocketAddr> = addrs.collect();
            return if addrs.is_empty() { Err(no_such_host(target)) } else { Ok(addrs) };
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => {
            let text = format!("dial tcp: lookup {name}: i/o timeout");
            return Err(Refusal { kind: RefusalKind::Timeout, text });
        }
    };
    // getaddrinfo has no codes that survive the standard library.
    if error.contains("Temporary failure") {
        let text = format!("dial tcp: lookup {name}: server misbehaving");
        return Err(Refusal { kind: RefusalKind::Dns, text });
    }
    Err(no_such_host(target))
}

fn no_such_host(target: &Target) -> Refusal {
    Refusal { kind: RefusalKind::Dns, text: format!("dial tcp: lookup {}: no such host", target.host()) }
}

fn timed_out(addr: SocketAddr) -> Refusal {
    Refusal { kind: RefusalKind::Timeout, text: format!("dial tcp {addr}: i/o timeout") }
}

fn refusal(addr: SocketAddr, error: &io::Error) -> Refusal {
    use io::ErrorKind as Kind;
    const TEXTS: [(Kind, RefusalKind, &str); 5] = [
        (Kind::ConnectionRefused, RefusalKind::Refused, "connection refused"),
        (Kind::ConnectionReset, RefusalKind::Refused, "connection reset by peer"),
        (Kind::HostUnreachable, RefusalKind::Unreachable, "no route to host"),
        (Kind::NetworkUnreachable, RefusalKind::Unreachable, "network is unreachable"),
        (Kind::PermissionDenied, RefusalKind::Unreachable, "permission denied"),
    ];
    if error.kind() == Kind::TimedOut {
        return timed_out(addr);
    }
    if is_out_of_files(error) {
        let text = format!("dial tcp {addr}: socket: too many open files");
        return Refusal { kind: RefusalKind::Busy, text };
    }
    match TEXTS.iter().find(|(kind, ..)| *kind == error.kind()) {
        Some((_, kind, what)) => Refusal { kind: *kind, text: format!("dial tcp {addr}: connect: {what}") },
        None => Refusal { kind: RefusalKind::Failed, text: format!("dial tcp {addr}: connect: {error}") },
    }
}

/// EMFILE and ENFILE, which have no kind.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(target: &str, limit: Duration) -> (RefusalKind, String) {
        let refusal = connect(&target.parse().unwrap(), limit).await.unwrap_err();
        (refusal.kind, refusal.text)
    }

    #[tokio::test]
    async fn errors_have_the_shape_of_go() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        drop(taken);
        assert_eq!(
            text(&addr.to_string(), Duration::from_secs(5)).await,
            (RefusalKind::Refused, format!("dial tcp {addr}: connect: connection refused"))
        );
        assert_eq!(
            text("no-such-host.invalid:80", Duration::from_secs(30))
                .await
                .1
                .replace("server misbehaving", "no such host"),
            "dial tcp: lookup no-such-host.invalid: no such host"
        );
    }

    #[tokio::test]
    async fn a_target_that_does_not_answer_is_a_timeout() {
        // A listener whose backlog is full does not answer.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
            queued.push(stream);
        }
        assert_eq!(
            text(&addr.to_string(), Duration::from_millis(300)).await,
            (RefusalKind::Timeout, format!("dial tcp {addr}: i/o timeout"))
        );
    }
}
