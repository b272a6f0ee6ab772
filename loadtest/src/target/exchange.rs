//! Requests with their answers, one after the other on a connection, as HTTP has them.

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::payload::Payload;

/// Longest request and longest answer, in bytes: beyond any profile, so a larger one is a bad head.
const MOST: u32 = 256 << 20;

/// Bytes per read and write.
pub(crate) const BLOCK: usize = 64 * 1024;

/// Bytes of a request's head.
const HEAD: usize = 16;

/// A request: its head, and padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Of the answer's payload.
    pub(crate) seed: u64,
    /// Length of the request behind its head, in bytes.
    pub(crate) length: u32,
    /// Length of the answer, in bytes.
    pub(crate) answer: u32,
}

impl Request {
    pub(crate) fn bytes(self) -> Vec<u8> {
        let head = (u128::from(self.seed) << 64) | (u128::from(self.length) << 32) | u128::from(self.answer);
        let mut bytes = Vec::with_capacity(HEAD + self.length as usize);
        bytes.extend_from_slice(&head.to_be_bytes());
        bytes.resize(HEAD + self.length as usize, b'?');
        bytes
    }

    fn from_head(head: [u8; HEAD]) -> Self {
        let head = u128::from_be_bytes(head);
        Self { seed: (head >> 64) as u64, length: (head >> 32) as u32, answer: head as u32 }
    }
}

/// Answers until the client closes; `rest` are the bytes behind the command.
pub(super) async fn serve(socket: TcpStream, rest: Vec<u8>) -> anyhow::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut read = std::io::Cursor::new(rest).chain(read);
    let mut block = vec![0; BLOCK];
    loop {
        let mut head = [0; HEAD];
        if read.read(&mut head[..1]).await? == 0 {
            return Ok(());
        }
        read.read_exact(&mut head[1..]).await?;
        let Request { seed, length, answer } = Request::from_head(head);
        anyhow::ensure!(length.max(answer) <= MOST, "a request of {length} for {answer} bytes");
        let mut left = length as usize;
        while left > 0 {
            let most = block.len().min(left);
            let got = read.read(&mut block[..most]).await?;
            anyhow::ensure!(got > 0, "the request ended too early");
            left -= got;
        }
        Payload::new(seed).write(&mut write, answer.into(), &mut block).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_bytes() {
        let request = Request { seed: u64::MAX - 1, length: 7, answer: u32::MAX - 2 };
        let bytes = request.bytes();
        assert_eq!(bytes.len(), HEAD + 7);
        assert_eq!(Request::from_head(*bytes.first_chunk().unwrap()), request);
    }
}
