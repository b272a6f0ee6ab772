use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tunnel::drain::Drain;

use super::*;

fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
    Proxies::from_variables(|name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn parsed(url: &str) -> Proxy {
    proxies(&[("HTTPS_PROXY", url)]).unwrap().to("server.example", 8091).unwrap().clone()
}

#[test]
fn addresses_of_proxies() {
    for (url, shown) in [
        ("http://proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example:3128/", "proxy.example:3128"),
        ("proxy.example:3128", "proxy.example:3128"),
        ("http://proxy.example", "proxy.example:80"),
        ("https://proxy.example", "proxy.example:443"),
        ("HTTP://10.0.0.1:8080", "10.0.0.1:8080"),
        ("http://[fd00::1]:3128", "[fd00::1]:3128"),
        ("http://[fd00::1]", "[fd00::1]:80"),
        (" http://user:secret@proxy.example:3128 ", "proxy.example:3128"),
    ] {
        assert_eq!(parsed(url).to_string(), shown, "{url}");
    }
    for bad in
        ["http://", "socks5://proxy:1080", "http://:3128", "http://proxy:x", "http://a b", "http://p:0"]
    {
        assert!(matches!(proxies(&[("HTTPS_PROXY", bad)]), Err(ProxyError::Address(_))), "{bad}");
    }
}

#[test]
fn names_and_passwords_are_decoded_and_never_shown() {
    let authorization = |url: &str| parsed(url).authorization;
    assert_eq!(authorization("http://proxy:1"), None);
    // As in RFC 7617: Aladdin, open sesame.
    let basic = Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_owned());
    assert_eq!(authorization("http://Aladdin:open%20sesame@proxy:1"), basic);
    assert_eq!(authorization("http://name@proxy:1"), Some("Basic bmFtZTo=".to_owned()));
    let shown =
        format!("{:?} {}", parsed("http://name:secret@proxy:1"), parsed("http://name:secret@proxy:1"));
    assert!(!shown.contains("secret") && !shown.contains("name"), "{shown}");
}

#[test]
fn upper_case_variables_come_first_and_empty_ones_are_none() {
    let chosen = |variables: &[(&str, &str)]| {
        proxies(variables).unwrap().to("server.example", 8091).map(ToString::to_string)
    };
    assert_eq!(chosen(&[]), None);
    assert_eq!(chosen(&[("HTTP_PROXY", "http://a:1")]), None);
    assert_eq!(chosen(&[("https_proxy", "http://a:1")]), Some("a:1".to_owned()));
    assert_eq!(chosen(&[("HTTPS_PROXY", ""), ("https_proxy", "a:1")]), Some("a:1".to_owned()));
    assert_eq!(chosen(&[("HTTPS_PROXY", "b:1"), ("https_proxy", "a:1")]), Some("b:1".to_owned()));
    assert_eq!(chosen(&[("HTTPS_PROXY", "b:1"), ("no_proxy", "server.example")]), None);
    assert_eq!(
        chosen(&[("HTTPS_PROXY", "b:1"), ("NO_PROXY", "other"), ("no_proxy", "server.example")]),
        Some("b:1".to_owned())
    );
}

#[test]
fn exceptions_are_gos() {
    for (no_proxy, host, proxied) in [
        // This host is never proxied.
        ("", "localhost:1", false),
        ("", "127.0.0.1:1", false),
        ("", "127.9.9.9:1", false),
        ("", "::1:1", false),
        ("", "::ffff:127.0.0.1:1", false),
        ("", "server.example:1", true),
        ("*", "server.example:1", false),
        ("a, *", "10.0.0.1:1", false),
        // Domains.
        ("example", "server.example:1", false),
        ("example", "example:1", false),
        ("example", "notexample:1", true),
        (".example", "server.example:1", false),
        (".example", "example:1", true),
        ("*.example", "server.example:1", false),
        ("*.example", "example:1", true),
        ("EXAMPLE", "Server.Example:1", false),
        ("example:8091", "server.example:8091", false),
        ("example:8091", "server.example:443", true),
        (" a.example , b.example ", "b.example:1", false),
        // Addresses and networks.
        ("10.0.0.1", "10.0.0.1:1", false),
        ("10.0.0.1", "10.0.0.2:1", true),
        ("10.0.0.1:8091", "10.0.0.1:8091", false),
        ("10.0.0.1:8091", "10.0.0.1:443", true),
        ("10.0.0.0/8", "10.255.0.1:1", false),
        ("10.0.0.0/8", "11.0.0.1:1", true),
        ("10.0.0.0/8", "::ffff:10.0.0.1:1", false),
        ("fd00::/8", "fd12::1:1", false),
        ("fd00::1", "fd00::1:1", false),
        ("[fd00::1]", "fd00::1:1", false),
        ("[fd00::1]:8091", "fd00::1:8091", false),
        ("[fd00::1]:8091", "fd00::1:1", true),
        // Names are not resolved for the comparison.
        ("0.0.0.0/0", "server.example:1", true),
        // Malformed entries are skipped.
        (",,:80,.,[]:1,10.0.0.0/99,example:x", "server.example:1", true),
    ] {
        let proxies = proxies(&[("HTTPS_PROXY", "http://proxy:1"), ("NO_PROXY", no_proxy)]).unwrap();
        let (name, port) = host.rsplit_once(':').unwrap();
        assert_eq!(proxies.to(name, port.parse().unwrap()).is_some(), proxied, "{no_proxy:?} {host}");
    }
}

/// A proxy that answers a request with `answer` and then echoes. Returns its address and the
/// request.
async fn fake_proxy(answer: Vec<u8>, drain: &Drain) -> (String, tokio::sync::oneshot::Receiver<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, asked) = tokio::sync::oneshot::channel();
    drain.spawn("fake proxy", async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            socket.read_buf(&mut request).await.unwrap();
        }
        tell.send(String::from_utf8(request).unwrap()).unwrap();
        // The client may close before the end of a long answer.
        let _ = socket.write_all(&answer).await;
        let (mut from, mut to) = socket.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    (addr.to_string(), asked)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[tokio::test]
async fn a_connection_through_a_proxy_carries_bytes() {
    for (server, asked_for) in [("server.example", "server.example:8091"), ("fd00::1", "[fd00::1]:8091")] {
        let drain = Drain::new();
        let answer = b"HTTP/1.0 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n".to_vec();
        let (addr, asked) = fake_proxy(answer, &drain).await;
        let proxy = parsed(&format!("http://name:secret@{addr}"));
        let mut socket = proxy.connect(server, 8091, soon()).await.unwrap();
        let asked = asked.await.unwrap();
        assert!(
            asked.starts_with(&format!("CONNECT {asked_for} HTTP/1.1\r\nHost: {asked_for}\r\n")),
            "{asked}"
        );
        assert!(asked.contains("\r\nProxy-Authorization: Basic bmFtZTpzZWNyZXQ=\r\n"), "{asked}");
        socket.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        socket.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
        drop(socket);
        drain.finish().await;
    }
}

#[tokio::test]
async fn what_a_proxy_does_wrong_is_named() {
    let long = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; 100_000]].concat();
    for (answer, said) in [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\nno".to_vec(),
            "does not connect to server.example:8091: 407 Proxy Authentication Required; put user:password@",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec(), "502 Bad Gateway"),
        (b"HTTP/1.1 301 Moved\r\nLocation: x\r\n\r\n".to_vec(), "301 Moved"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec(), "sent something before it was spoken to"),
        (b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), "its answer is not HTTP"),
        (long, "its answer is too long"),
    ] {
        let drain = Drain::new();
        let (addr, _asked) = fake_proxy(answer, &drain).await;
        let error = parsed(&addr).connect("server.example", 8091, soon()).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(&addr), "{error}");
        drain.finish().await;
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_or_leaves_or_is_not_there() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = parsed(&listener.local_addr().unwrap().to_string());
    // The kernel accepts the connection, and nobody reads from it.
    let deadline = Instant::now() + Duration::from_millis(50);
    let error = proxy.connect("server.example", 8091, deadline).await.unwrap_err();
    assert!(matches!(error, ProxyError::Timeout { .. }), "{error}");

    let leave = async { drop(listener.accept().await.unwrap()) };
    // The connection that timed out is accepted first.
    let (first, second) = (async { drop(listener.accept().await.unwrap()) }, leave);
    let ((), (), result) = tokio::join!(first, second, proxy.connect("server.example", 8091, soon()));
    assert!(matches!(result, Err(ProxyError::Failed { .. })), "{result:?}");

    drop(listener);
    let error = proxy.connect("server.example", 8091, soon()).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let error = proxy.connect("a\r\nb", 8091, soon()).await.unwrap_err();
    assert!(matches!(error, ProxyError::Server(_)), "{error}");
}
