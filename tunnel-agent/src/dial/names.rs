//! Look-ups of targets' names by the system's resolver, each of which holds a thread until it ends, also
//! when its dial has been given up.
//!
//! Dials do not get all threads of the runtime: the agent looks up its servers with the others. While
//! all of theirs are taken, a name has its last answer again, and other dials are refused as busy.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Look-ups of dials at once, of the 512 threads that tokio makes. With fewer, dead names refuse more
/// dials; with more, they keep the agent from its servers.
const LOOK_UPS: usize = 384;

/// Names whose last answer is kept: targets with names are webhooks and aggregated APIs. Fewer forget
/// one of them; more is memory.
const KEPT: usize = 256;

/// The age of an answer that is still used while look-ups are busy. A shorter one helps less; a longer
/// one leads to hosts that have changed.
const FRESH: Duration = Duration::from_secs(120);

/// The look-ups of all dials of this process.
static NAMES: Names = Names::new(LOOK_UPS);

/// Why a name was not looked up.
#[derive(Debug)]
pub(super) enum Failure {
    /// All threads are taken.
    Busy,
    /// As the resolver says.
    Resolver(io::Error),
}

/// The addresses of a name. Cancel safe: a look-up under way goes on for nobody.
///
/// # Errors
/// When the resolver finds none, or others take all of its threads.
pub(super) async fn look_up(name: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    NAMES.look_up(name, port, |name, port| Ok((name, port).to_socket_addrs()?.collect())).await
}

struct Names {
    free: Semaphore,
    known: Mutex<BTreeMap<String, Known>>,
}

/// The last answer for a name.
struct Known {
    at: Instant,
    addrs: Vec<SocketAddr>,
}

impl Names {
    const fn new(look_ups: usize) -> Self {
        Self { free: Semaphore::const_new(look_ups), known: Mutex::new(BTreeMap::new()) }
    }

    async fn look_up(
        &'static self,
        name: &str,
        port: u16,
        look_up: impl FnOnce(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    ) -> Result<Vec<SocketAddr>, Failure> {
        let Ok(slot) = self.free.try_acquire() else {
            return self.recall(name, port).ok_or(Failure::Busy);
        };
        let asked = name.to_owned();
        let looking = tokio::task::spawn_blocking(move || {
            let found = look_up(&asked, port);
            drop(slot);
            found
        });
        let found = looking.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let addrs = found.map_err(Failure::Resolver)?;
        self.keep(name, &addrs);
        Ok(addrs)
    }

    fn recall(&self, name: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let known = self.known();
        let known = known.get(name).filter(|known| known.at.elapsed() < FRESH)?;
        Some(known.addrs.iter().map(|addr| SocketAddr::new(addr.ip(), port)).collect())
    }

    fn keep(&self, name: &str, addrs: &[SocketAddr]) {
        let mut known = self.known();
        if known.len() >= KEPT && !known.contains_key(name) {
            let oldest = known.iter().min_by_key(|(_, known)| known.at).map(|(name, _)| name.clone());
            oldest.map(|oldest| known.remove(&oldest));
        }
        known.insert(name.to_owned(), Known { at: Instant::now(), addrs: addrs.to_vec() });
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn answer(_: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![([10, 0, 0, 1], port).into()])
    }

    /// Dials by a name that is not answered before the sender goes, given up at once.
    async fn dead(names: &'static Names) -> Sender<()> {
        let (end, wait) = channel::<()>();
        let looking = names.look_up("dead", 80, move |_, _| {
            let _ = wait.recv();
            Err(io::Error::other("no answer"))
        });
        let given_up = tokio::time::timeout(Duration::from_millis(1), looking).await;
        assert!(given_up.is_err() || matches!(given_up, Ok(Err(Failure::Busy))));
        end
    }

    #[tokio::test]
    async fn dead_names_leave_threads_to_others_and_known_names_their_answer() {
        static NAMES: Names = Names::new(8);
        let names = &NAMES;
        assert_eq!(names.look_up("known", 80, answer).await.unwrap(), [([10, 0, 0, 1], 80).into()]);
        let mut dials = Vec::new();
        for _ in 0..8 {
            dials.push(dead(names).await);
        }
        let known = names.look_up("known", 443, answer).await.unwrap();
        assert_eq!(known, [([10, 0, 0, 1], 443).into()]);
        assert!(matches!(names.look_up("new", 80, answer).await, Err(Failure::Busy)));
        // The agent's own look-ups have threads.
        tokio::task::spawn_blocking(|| {}).await.unwrap();
        drop(dials);
        while names.free.available_permits() < 8 {
            tokio::task::yield_now().await;
        }
        names.look_up("new", 80, answer).await.unwrap();
    }

    #[tokio::test]
    async fn the_memory_of_names_is_bounded_and_fresh() {
        static NAMES: Names = Names::new(8);
        for number in 0..3 * KEPT {
            NAMES.look_up(&number.to_string(), 80, answer).await.unwrap();
        }
        assert_eq!(NAMES.known().len(), KEPT);
        assert!(NAMES.recall("0", 80).is_none() && NAMES.recall(&(3 * KEPT - 1).to_string(), 80).is_some());
        tokio::time::pause();
        tokio::time::advance(FRESH).await;
        assert!(NAMES.recall(&(3 * KEPT - 1).to_string(), 80).is_none());
    }
}
