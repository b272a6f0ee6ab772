//! Groups of connections under one number: floods of zeros, and connections that are not read. Other
//! connections ask whether a group still moves, and release it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::payload::ZEROS;

/// A connection stalls once nothing has moved on it for this long. Less would take a busy CPU for a stall;
/// more only delays the measurement.
pub(crate) const STILL: Duration = Duration::from_millis(300);

/// The groups, by their numbers.
#[derive(Default)]
pub(super) struct Groups {
    by_token: Mutex<HashMap<u64, Group>>,
}

struct Group {
    connections: usize,
    /// When bytes last moved on one of them.
    moved: Instant,
    released: Arc<Notify>,
}

impl Groups {
    /// Sends zeros until the connection ends.
    pub(super) async fn flood(&self, mut socket: TcpStream, token: u64) -> anyhow::Result<()> {
        let member = Member::join(self, token);
        loop {
            let _ = socket.write(&ZEROS).await?;
            member.moved();
        }
    }

    /// Does not read. Resets the connection once the group is released; ends when the client does that.
    pub(super) async fn stall(&self, socket: TcpStream, token: u64) -> anyhow::Result<()> {
        let member = Member::join(self, token);
        tokio::select! {
            ready = socket.ready(Interest::ERROR) => drop(ready?),
            () = member.released.notified() => socket.set_zero_linger()?,
        }
        Ok(())
    }

    /// Waits until nothing has moved on any flood of a group for [`STILL`]; returns at once without a group.
    /// Cancel safe.
    pub(super) async fn ebb(&self, token: u64) {
        while let Some(still) = self.moved(token).map(|moved| moved + STILL) {
            if still <= Instant::now() {
                return;
            }
            sleep_until(still).await;
        }
    }

    /// Resets all connections that stall in a group.
    pub(super) fn release(&self, token: u64) {
        if let Some(group) = self.lock().get(&token) {
            group.released.notify_waiters();
        }
    }

    fn moved(&self, token: u64) -> Option<Instant> {
        self.lock().get(&token).map(|group| group.moved)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Group>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a group, which lasts as long as its last member.
struct Member<'a> {
    groups: &'a Groups,
    token: u64,
    released: Arc<Notify>,
}

impl<'a> Member<'a> {
    fn join(groups: &'a Groups, token: u64) -> Self {
        let mut by_token = groups.lock();
        let new = || Group { connections: 0, moved: Instant::now(), released: Arc::default() };
        let group = by_token.entry(token).or_insert_with(new);
        group.connections += 1;
        Self { groups, token, released: Arc::clone(&group.released) }
    }

    fn moved(&self) {
        if let Some(group) = self.groups.lock().get_mut(&self.token) {
            group.moved = Instant::now();
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        let mut by_token = self.groups.lock();
        if let Some(group) = by_token.get_mut(&self.token) {
            group.connections -= 1;
            if group.connections == 0 {
                by_token.remove(&self.token);
            }
        }
    }
}
