//! The line between two network namespaces: two TUN devices, and a thread that moves packets between them.
//!
//! A TUN device hands over one packet of at most the MTU at a time. A pair of Ethernet devices in the same
//! kernel would hand over segments of 64 KB, and one loss would be fifty.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tun_rs::{AsyncDevice, DeviceBuilder};

use crate::filter::{Filter, Filtering, Way};
use crate::line::{Conditions, Counts, Line};
use crate::nat::{Field, translate};

/// Bytes of the read buffer: longer than any packet on a device with an MTU of 1500.
const BUFFER: usize = 4096;

/// Packets that one direction moves before the other one has its turn. One packet a turn makes the line
/// slower than the links under test; thousands let one direction delay the other.
const TURN: usize = 64;

/// Longest wait of a direction without packets on the way; any long time would do.
const LONG: Duration = Duration::from_secs(60);

/// A running line; dropping it ends the thread and deletes the devices.
#[derive(Debug)]
pub(crate) struct Emulator {
    state: Arc<Mutex<State>>,
    /// The thread ends with this channel.
    _alive: mpsc::Sender<()>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    /// From the server's side to the agent's.
    down: Line,
    up: Line,
    /// The bits that the NAT flips in the ports of the agent's side.
    change: u16,
    filtering: Filtering,
}

impl Emulator {
    /// Makes the devices, and starts the thread.
    pub(crate) fn start(names: [&str; 2], conditions: Conditions, seed: u64) -> anyhow::Result<Self> {
        let (down, up) = (Line::new(conditions, seed), Line::new(conditions, !seed));
        let state = State { down, up, change: 0, filtering: Filtering::default() };
        let state = Arc::new(Mutex::new(state));
        let (alive, gone) = mpsc::channel(1);
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let (shared, names) = (Arc::clone(&state), names.map(str::to_owned));
        let thread = std::thread::Builder::new().name("line".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(run(names, &shared, ready, gone));
        })?;
        started.recv().context("the emulator's thread ended")?.context("TUN devices")?;
        Ok(Self { state, _alive: alive, thread: Some(thread) })
    }

    /// Sets the conditions of both directions, from now on.
    pub(crate) fn set(&self, conditions: Conditions) {
        let mut state = self.lock();
        state.down.set(conditions);
        state.up.set(conditions);
    }

    /// Begins or ends a blackout of both directions.
    pub(crate) fn set_dark(&self, dark: bool) {
        let mut state = self.lock();
        state.down.set_dark(dark);
        state.up.set_dark(dark);
    }

    /// Loses certain packets from now on, and no longer those of earlier filters.
    pub(crate) fn filter(&self, filters: &[Filter]) {
        self.lock().filtering.set(filters);
    }

    /// Rebinds the NAT: connections of the agent's side get other ports, and packets to the old ports do not
    /// arrive.
    pub(crate) fn rebind(&self) {
        let mut state = self.lock();
        // The high bits stay, so that ports remain in the ephemeral range.
        state.change = (state.change + 0x0123) & 0x0fff;
    }

    /// The counts of the direction to the agent, and of the other one.
    pub(crate) fn counts(&self) -> [Counts; 2] {
        let state = self.lock();
        [state.down.counts(), state.up.counts()]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let (alive, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self._alive, alive));
        if let Some(thread) = self.thread.take() {
            // An error is a panic, which has been printed.
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(
    names: [String; 2],
    state: &Mutex<State>,
    ready: std::sync::mpsc::SyncSender<std::io::Result<()>>,
    mut gone: mpsc::Receiver<()>,
) {
    let devices = names.map(|name| DeviceBuilder::new().name(name).enable(false).build_async());
    let [server, agent] = match devices {
        [Ok(server), Ok(agent)] => [server, agent],
        [Err(error), _] | [_, Err(error)] => return drop(ready.send(Err(error))),
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    tokio::select! {
        _ = gone.recv() => {}
        () = carry(&server, &agent, state, Way::Down) => {}
        () = carry(&agent, &server, state, Way::Up) => {}
    }
}

impl State {
    fn line(&mut self, way: Way) -> &mut Line {
        match way {
            Way::Down => &mut self.down,
            Way::Up => &mut self.up,
        }
    }
}

/// Moves packets in one direction until a device fails.
async fn carry(from: &AsyncDevice, to: &AsyncDevice, state: &Mutex<State>, way: Way) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let next = lock(state).line(way).next().unwrap_or_else(|| Instant::now() + LONG);
        tokio::select! {
            received = from.recv(&mut buffer) => {
                let Ok(len) = received else { return };
                turn(&mut buffer, len, |buffer| from.try_recv(buffer).ok(), |packet| put(packet, state, way));
            }
            () = sleep_until(next) => {}
        }
        let mut out = Vec::new();
        {
            let (mut state, now) = (lock(state), Instant::now());
            out.extend(std::iter::from_fn(|| state.line(way).take(now)).take(TURN));
        }
        for packet in out {
            // A device that is down, or whose queue is full, loses packets.
            let _ = to.try_send(&packet);
        }
        tokio::task::yield_now().await;
    }
}

/// Puts the packet that is in the buffer, `first` bytes long, and those that `next` reads.
fn turn(
    buffer: &mut [u8],
    first: usize,
    mut next: impl FnMut(&mut [u8]) -> Option<usize>,
    mut put: impl FnMut(&mut [u8]),
) {
    let mut len = first;
    for left in (0..TURN).rev() {
        put(&mut buffer[..len]);
        // A packet that is read has left the device, so the last turn reads none.
        let more = if left > 0 { next(buffer) } else { None };
        let Some(more) = more else { return };
        len = more;
    }
}

fn put(packet: &mut [u8], state: &Mutex<State>, way: Way) {
    let mut state = lock(state);
    let field = match way {
        Way::Down => Field::Destination,
        Way::Up => Field::Source,
    };
    if state.change != 0 {
        translate(packet, field, state.change);
    }
    if state.filtering.passes(packet, way) {
        state.line(way).put(Instant::now(), packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_loses_no_packet() {
        let mut waiting = (0..=255u8).collect::<std::collections::VecDeque<_>>();
        let (mut buffer, mut seen) = ([0; 1], Vec::new());
        let mut next = |buffer: &mut [u8]| {
            buffer[0] = waiting.pop_front()?;
            Some(1)
        };
        let mut turns = 0;
        while let Some(first) = next(&mut buffer) {
            turn(&mut buffer, first, &mut next, |packet| seen.push(packet[0]));
            turns += 1;
        }
        assert_eq!((seen, turns), ((0..=255).collect(), 256 / TURN));
    }
}
