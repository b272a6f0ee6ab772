//! Connecting to a target: one look-up, the policy's check of each address, and a connect to one
//! that passed. Errors have the shape of Go's dialler, because runbooks and other programs match
//! it.

mod names;
mod permit;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tunnel::listen::tune;
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::{Host, Target};

use names::{Failure, look_up};
pub(crate) use permit::Permits;

/// Least time for each of several addresses of a target. With less, one lost SYN, which
/// the kernel repeats after a second, fails an address that works; with more, a dead
/// first address uses up the limit of the dial.
const LEAST: Duration = Duration::from_secs(2);

/// Connects to `target` within `limit`, trying those of its addresses that `permit` leaves, in the
/// resolver's order. Cancel safe: a dropped call gives the attempt up.
///
/// # Errors
/// The refusal of the address tried last, of the resolver, or of `permit`.
pub(crate) async fn connect(
    target: &Target,
    limit: Duration,
    permit: impl FnOnce(Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refusal>,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let deadline = Instant::now() + limit;
    let addrs = permit(resolve(target, deadline).await?)?;
    connect_resolved(target, &addrs, deadline).await
}

/// Connects to the first of `addrs`, addresses of `target`, that accepts. Cancel safe.
///
/// # Errors
/// The refusal of the address tried last, or of the last one that may have been reached.
pub(crate) async fn connect_resolved(
    target: &Target,
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let connected = connect_any(addrs, deadline, LEAST).await;
    connected.inspect(|(stream, _)| tune(stream)).map_err(|last| match last {
        Some((addr, error)) => refusal(addr, &error),
        None => lookup_failed(target.host(), RefusalKind::Dns, "no such host"),
    })
}

/// Connects to the first of `addrs` that accepts. Each gets an equal share of the time
/// until `deadline`, and at least `least` of it. Cancel safe.
///
/// # Errors
/// The address tried last with its error, or the last one that may have been reached; `None` if
/// `addrs` is empty.
pub(crate) async fn connect_any(
    addrs: &[SocketAddr],
    deadline: Instant,
    least: Duration,
) -> Result<(TcpStream, SocketAddr), Option<(SocketAddr, io::Error)>> {
    let mut last: Option<(SocketAddr, io::Error)> = None;
    for (tried, addr) in addrs.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let others = u32::try_from(addrs.len() - tried).unwrap_or(u32::MAX);
        match timeout((left / others).max(least).min(left), TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok((stream, *addr)),
            // The server asks another agent when nothing was reached, so that has to be true of all.
            Ok(Err(error)) if is_unreachable(&error) && last.is_some() => {}
            Ok(Err(error)) => last = Some((*addr, error)),
            Err(_) => last = Some((*addr, io::ErrorKind::TimedOut.into())),
        }
    }
    Err(last)
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// The addresses of a target, at least one, by one look-up of the system's resolver. Cancel safe.
///
/// # Errors
/// With a refusal that names what failed.
pub(crate) async fn resolve(target: &Target, deadline: Instant) -> Result<Vec<SocketAddr>, Refusal> {
    resolve_with(look_up, target, deadline).await
}

async fn resolve_with(
    look_up: impl AsyncFnOnce(&str, u16) -> Result<Vec<SocketAddr>, Failure>,
    target: &Target,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, Refusal> {
    let name = match target.host() {
        Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port())]),
        Host::Name(name) => name,
    };
    let (kind, why) = match timeout_at(deadline, look_up(name, target.port())).await {
        Ok(Ok(addrs)) => return Ok(addrs),
        Ok(Err(Failure::Busy)) => (RefusalKind::Busy, "too many look-ups at a time"),
        // The codes of getaddrinfo do not survive the standard library.
        Ok(Err(Failure::Resolver(error))) if error.to_string().contains("Temporary failure") => {
            (RefusalKind::Dns, "server misbehaving")
        }
        Ok(Err(Failure::Resolver(_))) => (RefusalKind::Dns, "no such host"),
        Err(_) => (RefusalKind::Timeout, "i/o timeout"),
    };
    Err(lookup_failed(target.host(), kind, why))
}

fn lookup_failed(host: &Host, kind: RefusalKind, why: &str) -> Refusal {
    Refusal { kind, text: format!("dial tcp: lookup {host}: {why}") }
}

fn refusal(addr: SocketAddr, error: &io::Error) -> Refusal {
    use io::ErrorKind as Kind;
    const TEXTS: [(Kind, RefusalKind, &str); 6] = [
        (Kind::ConnectionRefused, RefusalKind::Refused, "connect: connection refused"),
        (Kind::ConnectionReset, RefusalKind::Refused, "connect: connection reset by peer"),
        (Kind::HostUnreachable, RefusalKind::Unreachable, "connect: no route to host"),
        (Kind::NetworkUnreachable, RefusalKind::Unreachable, "connect: network is unreachable"),
        (Kind::PermissionDenied, RefusalKind::Unreachable, "connect: permission denied"),
        (Kind::TimedOut, RefusalKind::Timeout, "i/o timeout"),
    ];
    let (kind, why) = match TEXTS.iter().find(|(kind, ..)| *kind == error.kind()) {
        Some((_, kind, why)) => (*kind, (*why).to_owned()),
        // EMFILE and ENFILE, which have no kind of their own.
        None if matches!(error.raw_os_error(), Some(23 | 24)) => {
            (RefusalKind::Busy, "socket: too many open files".to_owned())
        }
        None => (RefusalKind::Failed, format!("connect: {error}")),
    };
    Refusal { kind, text: format!("dial tcp {addr}: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(target: &str, limit: Duration) -> (RefusalKind, String) {
        let refusal = connect(&target.parse().unwrap(), limit, Ok).await.unwrap_err();
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
            text("255.255.255.255:80", Duration::from_secs(5)).await,
            (
                RefusalKind::Unreachable,
                "dial tcp 255.255.255.255:80: connect: network is unreachable".to_owned()
            )
        );
        let (kind, text) = text("no-such-host.invalid:80", Duration::from_secs(30)).await;
        assert_eq!(
            (kind, text.replace("server misbehaving", "no such host").as_str()),
            (RefusalKind::Dns, "dial tcp: lookup no-such-host.invalid: no such host")
        );
    }

    #[tokio::test]
    async fn an_address_that_may_have_been_reached_is_told_before_one_without_a_route() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let refuses = taken.local_addr().unwrap();
        drop(taken);
        // The kernel refuses to connect to a broadcast address, and sends nothing.
        let no_route: SocketAddr = "255.255.255.255:80".parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        for addrs in [[refuses, no_route], [no_route, refuses]] {
            let (addr, _) = connect_any(&addrs, deadline, LEAST).await.unwrap_err().unwrap();
            assert_eq!(addr, refuses);
        }
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
