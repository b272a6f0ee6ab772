//! The server's log: a pipe, of which nobody reads for a while on demand.

use std::io::{PipeWriter, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Lines that go with an error.
const LAST_LINES: usize = 15;

/// A reader that writes what it reads to a file. Dropping it ends the reader.
#[derive(Debug)]
pub(crate) struct Log {
    stalls: watch::Sender<bool>,
    file: PathBuf,
    _reading: JoinSet<()>,
}

impl Log {
    /// The reader, and the other end of its pipe.
    pub(crate) fn start(file: &Path) -> anyhow::Result<(Self, PipeWriter)> {
        let (reader, writer) = std::io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let to = std::fs::File::create(file).with_context(|| format!("create {}", file.display()))?;
        let (stalls, stalled) = watch::channel(false);
        let mut reading = JoinSet::new();
        reading.spawn(read(reader, to, stalled));
        Ok((Self { stalls, file: file.to_owned(), _reading: reading }, writer))
    }

    /// Whether the reader stops.
    pub(crate) fn stall(&self, stalls: bool) {
        self.stalls.send_replace(stalls);
    }

    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

async fn read(mut from: pipe::Receiver, mut to: std::fs::File, mut stalled: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while stalled.wait_for(|stalled| !stalled).await.is_ok() {
        tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(1..) if to.write_all(&buffer[..read.unwrap_or(0)]).is_ok() => {}
                Ok(_) | Err(_) => return,
            },
            _ = stalled.changed() => {}
        }
    }
}
