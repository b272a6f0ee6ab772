//! The fake frontend's HTTP CONNECT.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tunnel_proto::connect::{ESTABLISHED, Head, Status, parse, refusal};

use super::fault::{Fault, Source, connect};

pub(super) async fn serve<S>(mut socket: S, fault: Fault) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut head = Vec::new();
    let (target, length) = loop {
        if socket.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        match parse(&head).map_err(io::Error::other)? {
            Head::Partial => {}
            Head::Complete { target, length } => break (target, length),
        }
    };
    let mut target = match connect(&target.to_string(), fault).await {
        Ok(target) => target,
        Err(reason) => return socket.write_all(&refusal(Status::BAD_GATEWAY, &reason)).await,
    };
    target.write_all(&head[length..]).await?;
    let early = if let Fault::Early(bytes) = fault { bytes } else { &[] };
    socket.write_all(&[ESTABLISHED, early].concat()).await?;
    relay(socket, target, fault).await
}

async fn relay<S>(socket: S, target: TcpStream, fault: Fault) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(socket);
    let (from_target, mut to_target) = target.into_split();
    let mut source = Source::new(from_target, fault);
    let spoken = Arc::clone(&source.spoken);
    let up = async {
        let mut first = Vec::with_capacity(4096);
        from_client.read_buf(&mut first).await?;
        to_target.write_all(&first).await?;
        spoken.notify_one();
        tokio::io::copy(&mut from_client, &mut to_target).await?;
        to_target.shutdown().await
    };
    let down = async {
        loop {
            let bytes = source.next().await?;
            if bytes.is_empty() {
                return to_client.shutdown().await;
            }
            to_client.write_all(&bytes).await?;
        }
    };
    tokio::try_join!(up, down).map(|_| ())
}
