//! Plays a session on a connection of bytes.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::ears::{Ears, Heard};
use crate::lane::Lane;
use crate::marks::Marks;
use crate::session::{Act, Step};

/// Length of [`Act::Pause`]: longer than a packet takes on loopback.
const PAUSE: Duration = Duration::from_millis(10);

/// Time after which a peer that read nothing learns how the connection has ended.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// How a session is played.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Longest wait before a step, and for its bytes to be taken. The next step follows anyway.
    pub wait: Duration,
    /// Time after the last step for which the peer stays, unless the other end leaves.
    pub stay: Duration,
    /// Time after that for the dial of an agent that played to end.
    pub dial: Duration,
}

impl Manner {
    /// For sessions that have to succeed: as long as any step takes on a busy machine.
    pub const PATIENT: Self = Self {
        wait: Duration::from_secs(20),
        stay: Duration::from_millis(200),
        dial: Duration::from_secs(5),
    };

    /// For mutations: what the other end does it does at once on loopback, or never.
    pub const HASTY: Self =
        Self { wait: Duration::from_millis(60), stay: Duration::from_millis(10), dial: Duration::ZERO };

    /// For mutations whose peer leaves it to the other end to leave: longer than the longest time limit of
    /// a stranger or a silent peer, which is that of an agent on QUIC (70 s).
    pub const LINGERING: Self = Self { stay: Duration::from_secs(90), ..Self::HASTY };
}

/// How a session went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Played {
    /// Events of the other end.
    pub events: u32,
    /// The first step, from 1, for which the other end did not do what the session waited for; 0 is none.
    pub missed: usize,
    /// The other end has ended the connection.
    pub ended: bool,
}

/// Plays a session to its end.
pub(crate) async fn play<IO>(io: IO, lane: Lane, steps: &[Step], marks: &Marks, manner: Manner) -> Played
where
    IO: AsyncRead + AsyncWrite + Send,
{
    let (mut from, mut to) = split(io);
    let (heard, hears) = (watch::Sender::new(Heard::default()), watch::Sender::new(true));
    let reading = async {
        let (mut ears, mut bytes) = (Ears::on(lane), vec![0; 16 * 1024]);
        let mut hears = hears.subscribe();
        loop {
            // Fails only without a sender, which outlives this.
            let _ = hears.wait_for(|hears| *hears).await;
            match from.read(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(n) => ears.hear(&bytes[..n]),
            }
            heard.send_replace(ears.heard);
        }
        heard.send_modify(|heard| heard.ended = true);
        std::future::pending::<()>().await;
    };
    let acting = async {
        let (mut listener, mut played) = (heard.subscribe(), Played::default());
        for (number, step) in (1..).zip(steps) {
            let came = listener.wait_for(|heard| heard.events >= step.after || heard.ended);
            let came = timeout(manner.wait, came).await.is_ok_and(|_| heard.borrow().events >= step.after);
            if !came && played.missed == 0 {
                played.missed = number;
            }
            let done = async {
                match &step.act {
                    Act::Send(bytes) => {
                        let mut bytes = bytes.clone();
                        marks.put(&mut bytes, heard.borrow().number);
                        to.write_all(&bytes).await?;
                        to.flush().await
                    }
                    Act::Finish => to.shutdown().await,
                    Act::Reset => Err(std::io::ErrorKind::ConnectionReset.into()),
                    Act::Deaf => {
                        hears.send_replace(false);
                        Ok(())
                    }
                    Act::Pause => {
                        sleep(PAUSE).await;
                        Ok(())
                    }
                }
            };
            match timeout(manner.wait, done).await {
                // The rest of a write that is not taken would be out of place.
                Ok(Err(_)) | Err(_) => break,
                Ok(Ok(())) => {}
            }
        }
        stay(&heard, &hears, manner).await;
        Played { events: heard.borrow().events, ended: heard.borrow().ended, ..played }
    };
    tokio::select! {
        () = reading => Played::default(),
        played = acting => played,
    }
}

/// Waits for the end of a connection.
pub(crate) async fn stay(heard: &watch::Sender<Heard>, hears: &watch::Sender<bool>, manner: Manner) {
    let mut listener = heard.subscribe();
    // Its outcome is in `heard`.
    let _ = timeout(manner.stay, listener.wait_for(|heard| heard.ended)).await;
    if manner.stay > LAST_LOOK && !hears.send_replace(true) {
        let _ = timeout(LAST_LOOK, listener.wait_for(|heard| heard.ended)).await;
    }
}
