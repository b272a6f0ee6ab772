//! A shell: echoes every key, and prints behind every newline.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes that a command prints, all of them `#`.
pub(crate) const PRINTED: usize = 1200;

/// Serves until the client closes; `rest` are the keys behind the command.
pub(super) async fn serve(mut socket: TcpStream, rest: Vec<u8>) -> anyhow::Result<()> {
    let mut keys = rest;
    loop {
        let mut answer = Vec::with_capacity(keys.len());
        for key in keys.drain(..) {
            answer.push(key);
            if key == b'\n' {
                answer.resize(answer.len() + PRINTED, b'#');
            }
        }
        socket.write_all(&answer).await?;
        keys.reserve(4096);
        if socket.read_buf(&mut keys).await? == 0 {
            return Ok(());
        }
    }
}
