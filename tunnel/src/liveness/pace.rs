//! The times of an agent's heartbeats on QUIC: a value, without timers.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use tokio::time::Instant;

/// Longest time between two heartbeats of an agent without streams. A restarted server
/// resets its predecessor's tunnels when their agents next speak, so all agents are back
/// after this time and a handshake. Shorter costs a server with thousands of agents
/// processor time; longer delays the return of agents.
pub(super) const IDLE: Duration = Duration::from_millis(2400);

/// The same for an agent with streams. A server finds a killed agent's process after at
/// most this time and 0.3 s ([`vanished`](super::vanished)), so `kubectl logs -f` ends
/// within a second. Half of it costs twice the datagrams and is not noticed by a person.
const BUSY: Duration = Duration::from_millis(500);

/// How long a first stream lasts before the agent's pace changes. Most dialled connections
/// are shorter, and cost no heartbeat.
const SETTLED: Duration = Duration::from_millis(250);

/// Heartbeats are sent at multiples of this time of the wall clock, on all hosts, because
/// waking up costs a server as much as a heartbeat does: 1,000 idle agents take 1.4 % of a
/// core, and 2.7 % without it. A longer time makes a server's work come in bursts.
const GRID: Duration = Duration::from_millis(50);

/// The last multiple of [`GRID`] before `at`, or `at` if there is none after `now`.
fn on_grid(now: Instant, at: Instant) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let behind = |time: Duration| Duration::from_nanos((time.as_nanos() % GRID.as_nanos()) as u64);
    // Taken once, so that a step of the wall clock does not move it.
    let origin = *ORIGIN.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = Instant::now();
        now.checked_sub(behind(since_epoch)).unwrap_or(now)
    });
    let on_grid = at - behind(at.duration_since(origin));
    if on_grid > now { on_grid } else { at }
}

/// A heartbeat to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat {
    /// Longest time until the next heartbeat.
    pub(super) next: Duration,
    /// Nothing was acknowledged since the last heartbeat. This one bypasses the congestion window,
    /// so that it shows the end of a blackout.
    pub(super) urgent: bool,
}

/// Decides when the next heartbeat is due.
#[derive(Debug)]
pub(super) struct Pace {
    idle: Duration,
    busy: Duration,
    /// The time promised in the last heartbeat; `None` before the first.
    promised: Option<Duration>,
    /// When the next heartbeat is planned, before the promise ends.
    planned: Instant,
    /// Datagrams acknowledged at the last heartbeat.
    acknowledged: u64,
    due: Instant,
}

impl Pace {
    /// Speaks at once, and then every `idle` without streams.
    pub(super) fn new(idle: Duration, now: Instant) -> Self {
        Self { idle, busy: BUSY.min(idle), promised: None, planned: now, acknowledged: 0, due: now }
    }

    /// When to call [`Pace::speak`] next.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// A first stream was opened.
    pub(super) fn begun(&mut self, now: Instant) {
        self.due = self.due.min(now + SETTLED);
    }

    /// The heartbeat to send at `now`, if one is due. `acknowledged` counts all datagrams so far.
    pub(super) fn speak(&mut self, now: Instant, acknowledged: u64, has_streams: bool) -> Option<Heartbeat> {
        let pace = if has_streams { self.busy } else { self.idle };
        let next = match self.promised {
            // Random, so that agents that connect together do not speak together.
            None => self.busy + (self.idle - self.busy).mul_f64(rand::rng().random()),
            Some(promised) if now < self.planned && pace >= promised => {
                self.due = self.planned;
                return None;
            }
            Some(_) => pace,
        };
        let urgent = self.promised.is_some() && acknowledged == self.acknowledged;
        self.promised = Some(next);
        self.planned = on_grid(now, now + next);
        self.due = self.planned;
        self.acknowledged = acknowledged;
        Some(Heartbeat { next, urgent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// An agent on a network that carries everything at once, or nothing.
    struct World {
        pace: Pace,
        now: Instant,
        acknowledged: u64,
        connected: bool,
        has_streams: bool,
        spoken: Vec<(Instant, Heartbeat)>,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let pace = Pace::new(IDLE, now);
            let (spoken, connected, has_streams) = (Vec::new(), true, false);
            let mut world = Self { pace, now, acknowledged: 0, connected, has_streams, spoken };
            world.run(10 * SECOND);
            world.spoken.clear();
            world
        }

        fn begin(&mut self) {
            self.has_streams = true;
            self.pace.begun(self.now);
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.pace.due() <= end {
                self.now = self.now.max(self.pace.due());
                if let Some(heartbeat) = self.pace.speak(self.now, self.acknowledged, self.has_streams) {
                    self.spoken.push((self.now, heartbeat));
                    self.acknowledged += u64::from(self.connected);
                }
            }
            self.now = end;
        }

        fn keeps_its_promises(&self) {
            for pair in self.spoken.windows(2) {
                assert!(pair[1].0 <= pair[0].0 + pair[0].1.next, "{pair:?}");
            }
        }
    }

    #[test]
    fn an_idle_agent_speaks_seldom_and_one_with_streams_twice_a_second() {
        let mut world = World::new();
        world.run(24 * SECOND);
        assert!((9..=11).contains(&world.spoken.len()), "{:?}", world.spoken);
        world.begin();
        let began = world.spoken.len();
        world.run(10 * SECOND);
        assert!((20..=21).contains(&(world.spoken.len() - began)));
        assert!(world.spoken[began].1.next == BUSY && !world.spoken.iter().any(|(_, said)| said.urgent));
        world.has_streams = false;
        world.run(5 * SECOND);
        assert_eq!(world.spoken.last().unwrap().1.next, IDLE);
        world.keeps_its_promises();
    }

    #[test]
    fn a_first_stream_shortens_the_promise_unless_it_ends_at_once() {
        let mut world = World::new();
        for _ in 0..100 {
            world.begin();
            world.run(Duration::from_millis(20));
            world.has_streams = false;
            world.run(Duration::from_millis(300));
        }
        // One that is due while there is a stream promises less, and the next one more again.
        let idle = world.spoken.iter().filter(|(_, said)| said.next == IDLE).count();
        assert!(idle <= 14 && world.spoken.len() <= 2 * idle, "{:?}", world.spoken);
        assert!(world.spoken.len() <= 20, "32 seconds take hardly more heartbeats than without streams");
        world.run(5 * SECOND);
        let began = world.now;
        world.begin();
        world.run(SECOND);
        let first = world.spoken.iter().find(|(at, _)| *at > began).unwrap();
        assert!(first.0 <= began + SETTLED && first.1.next == BUSY);
        world.keeps_its_promises();
    }

    #[test]
    fn during_a_blackout_every_heartbeat_bypasses_the_window() {
        let mut world = World::new();
        world.begin();
        world.run(2 * SECOND);
        world.connected = false;
        let cut = world.now;
        world.run(30 * SECOND);
        let deaf: Vec<_> = world.spoken.iter().filter(|(at, _)| *at > cut + SECOND).collect();
        assert!(deaf.len() > 50 && deaf.iter().all(|(_, said)| said.urgent));
    }

    #[test]
    fn the_grid_is_never_late_and_hardly_early() {
        let now = Instant::now();
        for step in 0..200 {
            let at = now + step * Duration::from_millis(7);
            let on = on_grid(now, at);
            assert!(on <= at && at - on < GRID, "{:?}", at - on);
            assert!(on == at || on_grid(now, on) == on);
        }
    }

    #[test]
    fn agents_that_connect_together_do_not_stay_together() {
        let now = Instant::now();
        let next = || Pace::new(IDLE, now).speak(now, 0, false).unwrap().next.as_millis();
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| next()).collect();
        assert!(all.len() > 80 && all.iter().all(|next| (500..=2400).contains(next)), "{all:?}");
    }
}
