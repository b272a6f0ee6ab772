//! Plays a session on a QUIC connection.

use std::sync::{Mutex, PoisonError};

use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::ears::Heard;
use crate::marks::Marks;
use crate::play::{Manner, Played, stay};
use crate::session::{Act, Step};

/// A pause as on other connections.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// Code of streams that are reset: "the connection behind this stream broke".
const BROKE: VarInt = VarInt::from_u32(1);

/// Most bytes of one read.
const CHUNK: usize = 64 * 1024;

/// A connection with its control stream.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) control: (SendStream, RecvStream),
    /// Whether streams are opened here; they are accepted otherwise.
    pub(crate) opens: bool,
}

/// The streams of a connection, in their order.
struct Streams {
    heard: watch::Sender<Heard>,
    hears: watch::Sender<bool>,
    sending: Mutex<Vec<Option<SendStream>>>,
    reading: Mutex<JoinSet<()>>,
}

impl Streams {
    fn add(&self, (send, recv): (SendStream, RecvStream)) {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).push(Some(send));
        let (heard, hears) = (self.heard.clone(), self.hears.subscribe());
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.spawn(read(recv, heard, hears));
    }

    /// Takes a stream, to be put back.
    fn take(&self, on: usize) -> Option<SendStream> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).get_mut(on)?.take()
    }

    fn put(&self, on: usize, stream: SendStream) {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)[on] = Some(stream);
    }

    fn len(&self) -> usize {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

async fn read(mut recv: RecvStream, heard: watch::Sender<Heard>, mut hears: watch::Receiver<bool>) {
    let event = || heard.send_modify(|heard| heard.events += 1);
    let mut first = true;
    loop {
        let may = hears.wait_for(|hears| *hears).await.is_ok();
        match recv.read_chunk(CHUNK, true).await {
            Ok(Some(_)) if may => {
                if std::mem::take(&mut first) {
                    event();
                }
            }
            Ok(None) if may => break event(),
            Ok(_) | Err(_) => break,
        }
    }
    // A stream that is dropped says that nothing more is read.
    drop(recv);
}

/// Plays a session to its end, and closes the connection.
pub(crate) async fn play(opened: Opened, steps: &[Step], marks: &Marks, manner: Manner) -> Played {
    let Opened { connection, control, opens } = opened;
    let streams = Streams {
        heard: watch::Sender::new(Heard::default()),
        hears: watch::Sender::new(true),
        sending: Mutex::default(),
        reading: Mutex::default(),
    };
    streams.add(control);
    let meanwhile = async {
        if !opens {
            while let Ok(stream) = connection.accept_bi().await {
                streams.add(stream);
            }
        }
        connection.closed().await;
        streams.heard.send_modify(|heard| heard.ended = true);
        std::future::pending::<()>().await;
    };
    let acting = async {
        let missed = act(&connection, &streams, opens, steps, marks, manner).await;
        stay(&streams.heard, &streams.hears, manner).await;
        let heard = *streams.heard.borrow();
        Played { events: heard.events, missed, ended: heard.ended }
    };
    let played = tokio::select! {
        () = meanwhile => Played::default(),
        played = acting => played,
    };
    connection.close(VarInt::from_u32(0), b"played");
    played
}

/// Returns the first step that was waited for in vain.
async fn act(
    connection: &Connection,
    streams: &Streams,
    opens: bool,
    steps: &[Step],
    marks: &Marks,
    manner: Manner,
) -> usize {
    let (mut listener, mut missed) = (streams.heard.subscribe(), 0);
    for (number, step) in (1..).zip(steps) {
        let came = listener.wait_for(|heard| heard.events >= step.after || heard.ended);
        let came =
            timeout(manner.wait, came).await.is_ok_and(|_| streams.heard.borrow().events >= step.after);
        if opens
            && step.on == streams.len()
            && let Ok(Ok(stream)) = timeout(manner.wait, connection.open_bi()).await
        {
            streams.add(stream);
        }
        let stream = streams.take(step.on);
        if (!came || stream.is_none()) && missed == 0 {
            missed = number;
        }
        let Some(mut stream) = stream else { continue };
        match &step.act {
            Act::Send(bytes) => {
                let mut bytes = bytes.clone();
                marks.put(&mut bytes, None);
                // Fails on a stream that the other end has stopped.
                let _ = timeout(manner.wait, stream.write_all(&bytes)).await;
            }
            Act::Finish => drop(stream.finish()),
            Act::Reset if step.on == 0 => connection.close(BROKE, b"reset"),
            Act::Reset => drop(stream.reset(BROKE)),
            Act::Deaf => drop(streams.hears.send_replace(false)),
            Act::Pause => sleep(PAUSE).await,
        }
        streams.put(step.on, stream);
    }
    missed
}
