//! Places for peers that have proved nothing yet.
//!
//! A newcomer always gets a place. When all are taken, the source with the most places loses its
//! oldest one: whoever comes often pays, and a peer that comes seldom stays. Behind a load balancer
//! all peers are one source, of which the oldest goes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bits of an IPv6 address that one host may choose as it likes (RFC 4291 section 2.5.1).
const HOST_BITS: u32 = 64;

/// A limited number of places. Clones share them.
#[derive(Debug, Clone)]
pub struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    taken: usize,
    /// The places of each source, the oldest first.
    sources: HashMap<IpAddr, BTreeMap<u64, Arc<Notify>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Spot {
    crowd: Crowd,
    source: IpAddr,
    number: u64,
    lost: Arc<Notify>,
}

/// The part of an address that a peer cannot choose as it likes.
pub fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> HOST_BITS << HOST_BITS).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

impl Crowd {
    /// At most `most` places, and at least one.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner { most: most.max(1), state: Mutex::default() }))
    }

    /// Takes a place for a peer.
    pub fn enter(&self, from: IpAddr) -> Spot {
        let (source, lost) = (source(from), Arc::<Notify>::default());
        let mut state = self.lock();
        if state.taken >= self.0.most {
            state.evict();
        }
        let number = state.next;
        (state.next, state.taken) = (number + 1, state.taken + 1);
        state.sources.entry(source).or_default().insert(number, Arc::clone(&lost));
        Spot { crowd: self.clone(), source, number, lost }
    }

    /// The places that are taken.
    pub fn taken(&self) -> usize {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn evict(&mut self) {
        let oldest = |places: &BTreeMap<u64, Arc<Notify>>| places.keys().next().copied().unwrap_or_default();
        let crowded = self.sources.iter().max_by_key(|(_, places)| (places.len(), u64::MAX - oldest(places)));
        if let Some((&source, places)) = crowded {
            self.remove(source, oldest(places));
        }
    }

    fn remove(&mut self, source: IpAddr, number: u64) {
        let Some(places) = self.sources.get_mut(&source) else { return };
        // A place that was lost is not there any more.
        let Some(lost) = places.remove(&number) else { return };
        lost.notify_one();
        self.taken -= 1;
        if places.is_empty() {
            self.sources.remove(&source);
        }
    }
}

impl Spot {
    /// Waits until the place is lost to a newcomer. Cancel safe, for one caller.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Spot {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.source, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn has_lost(spot: &Spot) -> bool {
        pin!(spot.lost()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_source_with_the_most_places_loses_its_oldest() {
        let crowd = Crowd::new(10);
        let agent = crowd.enter(ip("10.0.0.1"));
        let flood: Vec<_> = (0..1000).map(|_| crowd.enter(ip("10.0.0.2"))).collect();
        assert!(!has_lost(&agent));
        let kept: Vec<_> = (0..1000).filter(|at| !has_lost(&flood[*at])).collect();
        assert_eq!(kept, (991..1000).collect::<Vec<_>>());
        assert_eq!(crowd.taken(), 10);
        drop((agent, flood));
        assert_eq!((crowd.taken(), crowd.lock().sources.len()), (0, 0));
    }

    #[test]
    fn of_many_sources_with_one_place_each_the_oldest_goes() {
        let crowd = Crowd::new(3);
        let places: Vec<_> = (0..5).map(|at| crowd.enter(ip(&format!("10.0.0.{at}")))).collect();
        assert_eq!(places.iter().map(has_lost).collect::<Vec<_>>(), [true, true, false, false, false]);
    }

    #[test]
    fn a_host_is_one_source_whatever_address_it_chooses() {
        assert_eq!(source(ip("2001:db8::1")), source(ip("2001:db8::ffff:1")));
        assert_ne!(source(ip("2001:db8::1")), source(ip("2001:db8:0:1::1")));
        assert_eq!(source(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }

    #[test]
    fn a_place_that_was_given_back_makes_room() {
        let crowd = Crowd::new(2);
        let (first, second) = (crowd.enter(ip("10.0.0.1")), crowd.enter(ip("10.0.0.1")));
        drop(first);
        let third = crowd.enter(ip("10.0.0.1"));
        assert!(!has_lost(&second) && !has_lost(&third));
    }
}
