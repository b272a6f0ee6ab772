//! The faults of a fake frontend, and the target seen through one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a target's first bytes are held while the client sends nothing. With
/// less they could arrive together with the answer, on which kube-apiservers fail.
const HOLD: Duration = Duration::from_millis(50);

/// The fault of a fake frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Changes the first byte that a target sends.
    Corrupt,
    /// Sends these bytes together with the answer to the dial.
    Early(&'static [u8]),
    /// gRPC: sends its data under the id of another connection.
    Foreign,
    /// Loses the last byte that a target sends.
    LoseLast,
    /// Refuses every dial with this reason.
    Refuse(&'static str),
    /// Never answers a dial.
    Silent,
}

/// Connects to the target, unless the fault is not to answer or to refuse.
/// Returns the reason on failure.
pub(super) async fn connect(target: &str, fault: Fault) -> Result<TcpStream, String> {
    match fault {
        Fault::Refuse(reason) => Err(reason.to_owned()),
        Fault::Silent => std::future::pending().await,
        Fault::Corrupt | Fault::Early(_) | Fault::Foreign | Fault::LoseLast | Fault::None => {
            TcpStream::connect(target).await.map_err(|error| error.to_string())
        }
    }
}

/// The sending half of a target, seen through a [`Fault`].
pub(super) struct Source {
    target: OwnedReadHalf,
    fault: Fault,
    /// The last byte read so far, under [`Fault::LoseLast`].
    held: Option<u8>,
    started: bool,
    /// Notified by the first bytes of the client.
    pub(super) spoken: Arc<Notify>,
}

impl Source {
    pub(super) fn new(target: OwnedReadHalf, fault: Fault) -> Self {
        Self { target, fault, held: None, started: false, spoken: Arc::default() }
    }

    /// The next bytes of the target; empty at its end.
    pub(super) async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut bytes = Vec::with_capacity(16 * 1024);
            bytes.extend(self.held.take());
            if self.target.read_buf(&mut bytes).await? == 0 {
                return Ok(Vec::new());
            }
            if self.fault == Fault::Corrupt && !self.started {
                bytes[0] ^= 0x20;
            }
            if !self.started {
                let _ = timeout(HOLD, self.spoken.notified()).await;
            }
            self.started = true;
            if self.fault == Fault::LoseLast {
                self.held = bytes.pop();
            }
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
    }
}
