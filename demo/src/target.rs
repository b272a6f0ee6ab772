//! The demo's targets: an echo, and a web page for `curl`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::routing;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tunnel::drain::Drain;
use tunnel_program::admin;

/// Starts an echo, which ends when the drain is killed.
pub(super) async fn echo(ip: Ipv4Addr, drain: &Drain) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let addr = listener.local_addr()?;
    let until = drain.clone();
    drain.spawn("demo echo", async move {
        loop {
            let accepted = tokio::select! {
                () = until.killed() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((mut client, _)) = accepted else { return };
            let stop = until.clone();
            until.spawn("demo echo connection", async move {
                let (mut from, mut to) = client.split();
                tokio::select! {
                    () = stop.killed() => {}
                    // A client that breaks off is reported by the transfer.
                    _ = async { copy(&mut from, &mut to).await?; to.shutdown().await } => {}
                }
            });
        }
    });
    Ok(addr)
}

/// Serves one page until the drain is killed.
pub(super) async fn hello(ip: Ipv4Addr, drain: &Drain) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let addr = listener.local_addr()?;
    let page = Router::new().route("/", routing::get(async || "Hello from behind the tunnel.\n"));
    let until = drain.clone();
    drain.spawn("demo page", async move {
        // curl reports a listener that failed.
        let _ = admin::serve(listener, page, until).await;
    });
    Ok(addr)
}

/// A GET without a tunnel, for the server's own health listener.
pub(super) async fn get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let answer = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    timeout(Duration::from_secs(5), answer).await?
}
