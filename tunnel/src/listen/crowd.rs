//! Places for peers that have proved nothing yet.
//!
//! When all are taken, the source with the most places loses its oldest one: whoever comes often pays,
//! and a peer that comes seldom stays. Behind a load balancer all peers are one source. Where peers need
//! time at their place ([`Crowd::in_turn`]), those of one source wait for each other, or a fleet that
//! comes at once would push itself out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Bits of an IPv6 address that one host may choose as it likes (RFC 4291 section 2.5.1).
const HOST_BITS: u32 = 64;

/// Time for which a peer keeps its place from others of its source, and where no source has more than
/// another. With less, peers on slow networks that come at once push each other out; with more, those
/// that stay for nothing keep others of their source waiting.
const KEPT: Duration = Duration::from_secs(5);

/// Time between two looks of a peer that waits, for places that have been kept long enough. Shorter
/// costs processor time; longer makes waits longer.
const LOOK: Duration = Duration::from_millis(500);

/// A limited number of places. Clones share them.
#[derive(Debug, Clone)]
pub struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    state: Mutex<State>,
    /// Told when a place is given back.
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    taken: usize,
    /// The places of each source, the oldest first.
    sources: HashMap<IpAddr, BTreeMap<u64, Place>>,
}

#[derive(Debug)]
struct Place {
    lost: Arc<Notify>,
    since: Instant,
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
        Self(Arc::new(Inner { most: most.max(1), state: Mutex::default(), freed: Notify::new() }))
    }

    /// Takes a place for a peer at once.
    pub fn enter(&self, from: IpAddr) -> Spot {
        let mut state = self.lock();
        if state.taken >= self.0.most
            && let Some((source, oldest)) = state.crowded().map(|crowded| (crowded.source, crowded.oldest))
        {
            state.remove(source, oldest);
        }
        self.place(&mut state, source(from))
    }

    /// Waits for a place: a free one, one of a source that has more, or one that its peer has had for
    /// five seconds. Cancel safe.
    pub async fn in_turn(&self, from: IpAddr) -> Spot {
        let source = source(from);
        loop {
            if let Some(spot) = self.try_place(source) {
                return spot;
            }
            // One that is freed meanwhile is remembered.
            let _ = timeout(LOOK, self.0.freed.notified()).await;
        }
    }

    fn try_place(&self, source: IpAddr) -> Option<Spot> {
        let mut state = self.lock();
        if state.taken >= self.0.most {
            let own = state.sources.get(&source).map_or(0, BTreeMap::len);
            let Crowded { source, places, oldest, since } = state.crowded()?;
            if places <= own + 1 && since.elapsed() < KEPT {
                return None;
            }
            state.remove(source, oldest);
        }
        Some(self.place(&mut state, source))
    }

    fn place(&self, state: &mut State, source: IpAddr) -> Spot {
        let (number, lost) = (state.next, Arc::<Notify>::default());
        (state.next, state.taken) = (number + 1, state.taken + 1);
        let place = Place { lost: Arc::clone(&lost), since: Instant::now() };
        state.sources.entry(source).or_default().insert(number, place);
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

/// The source with the most places, and its oldest one.
struct Crowded {
    source: IpAddr,
    places: usize,
    oldest: u64,
    since: Instant,
}

impl State {
    fn crowded(&self) -> Option<Crowded> {
        let all = self.sources.iter().filter_map(|(&source, places)| {
            let (&oldest, Place { since, .. }) = places.first_key_value()?;
            Some(Crowded { source, places: places.len(), oldest, since: *since })
        });
        all.max_by_key(|crowded| (crowded.places, u64::MAX - crowded.oldest))
    }

    /// True if the place was there: one that was lost is not any more.
    fn remove(&mut self, source: IpAddr, number: u64) -> bool {
        let Some(places) = self.sources.get_mut(&source) else { return false };
        let Some(place) = places.remove(&number) else { return false };
        place.lost.notify_one();
        self.taken -= 1;
        if places.is_empty() {
            self.sources.remove(&source);
        }
        true
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
        if self.crowd.lock().remove(self.source, self.number) {
            self.crowd.0.freed.notify_one();
        }
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

    /// A fleet that comes at once, from one address or from one each.
    #[tokio::test(start_paused = true)]
    async fn whoever_needs_time_waits_for_others_and_nobody_is_pushed_out() {
        for sources in [1, 1000] {
            let (crowd, began) = (Crowd::new(10), Instant::now());
            let mut fleet = tokio::task::JoinSet::new();
            for number in 0..1000_u32 {
                let crowd = crowd.clone();
                fleet.spawn(async move {
                    let spot = crowd.in_turn(IpAddr::from((number % sources).to_be_bytes())).await;
                    let needed = Duration::from_millis(20);
                    assert!(timeout(needed, spot.lost()).await.is_err());
                });
            }
            while let Some(done) = fleet.join_next().await {
                done.unwrap();
            }
            assert!(began.elapsed() < Duration::from_millis(2500), "{sources}: {:?}", began.elapsed());
            assert_eq!(crowd.taken(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stays_gives_way_at_once_to_other_sources_and_later_to_its_own() {
        let (crowd, one, other) = (Crowd::new(3), ip("10.0.0.1"), ip("10.0.0.2"));
        let began = Instant::now();
        let stay = [crowd.in_turn(one).await, crowd.in_turn(one).await, crowd.in_turn(one).await];
        let _other = crowd.in_turn(other).await;
        assert!(has_lost(&stay[0]) && began.elapsed() == Duration::ZERO);
        let _own = crowd.in_turn(one).await;
        assert!(has_lost(&stay[1]) && !has_lost(&stay[2]));
        assert!((KEPT..KEPT + 2 * LOOK).contains(&began.elapsed()), "{:?}", began.elapsed());
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
