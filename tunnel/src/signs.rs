//! Signs of life on links where nobody says goodbye for a killed process (QUIC):
//! when an agent says that it lives, and when a server takes it for gone.
//!
//! An agent says `Alive` with the time until it says so again, at the latest
//! ([`Rhythm`]). Any datagram of it is a sign of life; one that keeps silent for
//! longer than it promised is overdue ([`overdue_at`]). Then the server asks its
//! kernel, which says "port unreachable" for a process that is gone, and the agent,
//! which may only have lost a packet and has [`ASKED`] to answer. Only both together,
//! that answer and silence, end a tunnel. The kernel is asked first: it answers only
//! six datagrams in a moment, and QUIC repeats what is not acknowledged.
//!
//! # Races
//!
//! A NAT that has forgotten an agent gives the kernel's answer for a living one,
//! which cannot be asked then either: only what the agent says of its own accord
//! shows the server where it is now. So the server must not believe the kernel
//! before an agent that lives has spoken:
//!
//! * An agent speaks at the latest when its promise ends, and promises less before
//!   it relies on less. Between its datagrams are at most a promise, what the
//!   network adds, and how late its host lets it run. The server counts from the
//!   *arrival* of the last one, so only what the network adds to the second and
//!   not to the first counts against the agent; [`LEEWAY`], two round trips and
//!   `ASKED` stand against that.
//! * One word lost is sent again by QUIC, after about one and a half round trips
//!   and 25 ms: within the leeway. Two lost in a row are not, at the shortest
//!   promise; it takes a NAT that forgets in the same half second to do harm.
//! * What the server last saw may be older than it believes, because datagrams
//!   other than `Alive` are counted when it looks: then it waits longer, never
//!   shorter.
//! * Streams begin on an agent whose promise is long: it speaks [`FIRST`] later and
//!   promises less. Until then the server waits for the long one.
//! * Streams end: the agent takes the short promise back when it is due. If it has
//!   been cut off by then the server finds it overdue, and by then nobody waits.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rand::RngExt as _;
use tokio::time::Instant;

/// How often an agent is heard at least, whatever it does. A restarted server
/// tells its predecessor's agents when they say something, and has all of them
/// back after this and a handshake.
pub(crate) const LONGEST: Duration = Duration::from_millis(2400);

/// How often it is heard while its streams are in use, so that who waits for one
/// is told of its death about half a second later. One that is not in use any
/// more is heard of after pauses that double.
const FIRST: Duration = Duration::from_millis(250);

/// How long that lasts after streams were used: a log that somebody follows often has
/// a line per second. Longer would make a server listen to every agent that is asked
/// something four times a minute.
const REST: Duration = Duration::from_millis(1250);

/// How often an agent with streams looks whether they are in use again. It says
/// nothing for that.
const LISTEN: Duration = Duration::from_millis(500);

/// Longest pause of an agent with streams that hears nothing. Behind a cut of the
/// network its words, which may go whatever the congestion window says, show that
/// the cut is over.
const DEAF: Duration = Duration::from_secs(1);

/// What agents that promise nothing are taken to promise: they speak every
/// second while they have streams and hear nothing.
pub const UNPROMISED: Duration = Duration::from_secs(2);

/// Longest promise that is believed: no longer than anybody is relied upon.
const BELIEVED: Duration = Duration::from_secs(15);

/// How much later than promised a sign of life may come.
const LEEWAY: Duration = Duration::from_millis(200);

/// How long an agent that is overdue has to answer, beside two round trips.
pub const ASKED: Duration = Duration::from_millis(100);

/// How often an agent that stays silent is asked.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Moments at which agents speak, and at which a server looks at what can wait so
/// long: few of them, each for many agents, because waking up costs a server as
/// much as a word does. They are those of the wall clock, so that agents on
/// different hosts keep to the same ones.
const GRID: Duration = Duration::from_millis(50);

/// One moment of the grid. A step of the wall clock does not move it.
fn origin() -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    *ORIGIN.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let behind = since_epoch.as_nanos() % GRID.as_nanos();
        let now = Instant::now();
        now.checked_sub(nanoseconds(behind)).unwrap_or(now)
    })
}

/// How far a moment is behind the one of the grid before it.
fn behind_grid(at: Instant) -> Duration {
    nanoseconds(at.duration_since(origin()).as_nanos() % GRID.as_nanos())
}

/// Of a number below that of the grid.
fn nanoseconds(number: u128) -> Duration {
    Duration::from_nanos(u64::try_from(number).unwrap_or_default())
}

/// The moment on the grid that is next after this one.
pub fn on_grid(at: Instant) -> Instant {
    match behind_grid(at) {
        Duration::ZERO => at,
        behind => at + (GRID - behind),
    }
}

/// The moment of the grid at which to speak, `pause` after `now` at the latest.
pub(crate) fn speak_at(now: Instant, pause: Duration) -> Instant {
    let latest = now + pause;
    let on_grid = latest - behind_grid(latest);
    if on_grid > now { on_grid } else { latest }
}

/// A part of the first pause, so that agents that came together do not speak
/// together for ever.
pub(crate) fn part_of(pause: Duration) -> Duration {
    let least = FIRST.min(pause);
    least + (pause - least).mul_f64(rand::rng().random())
}

/// When an agent of which this was the last sign of life is overdue.
pub fn overdue_at(last: Instant, promised: Duration, round_trip: Duration) -> Instant {
    last + promised + LEEWAY + 2 * round_trip
}

/// What an `Alive` promises.
pub(crate) fn promised(next_ms: u32) -> Duration {
    match next_ms {
        0 => UNPROMISED,
        next_ms => Duration::from_millis(next_ms.into()).min(BELIEVED),
    }
}

/// Datagrams of a tunnel so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// To the peer.
    pub sent: u64,
    /// From it.
    pub received: u64,
}

/// What an agent says, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    /// How long until the next one at the latest.
    pub(crate) next: Duration,
    /// It hears nothing: the word is to go whatever the congestion window says.
    pub(crate) urgent: bool,
}

/// When an agent says that it lives: a value, no timers.
#[derive(Debug)]
pub(crate) struct Rhythm {
    /// Longest pause without streams, and with some.
    idle: Duration,
    busy: Duration,
    /// What was promised, and when; nothing before the first word.
    spoke: Option<Instant>,
    promised: Duration,
    /// Traffic when it was last looked at, and just before the last word.
    seen: Traffic,
    before: u64,
    /// Whether a word has gone since the traffic was looked at.
    said: bool,
    /// When streams were seen to be in use last.
    used: Option<Instant>,
    due: Instant,
}

impl Rhythm {
    /// Speaks at once, then every `idle`, or `busy` with streams that are not used.
    pub(crate) fn new(idle: Duration, busy: Duration, now: Instant) -> Self {
        let (seen, promised) = (Traffic::default(), idle);
        Self { idle, busy, spoke: None, promised, seen, before: 0, said: false, used: None, due: now }
    }

    /// When to look next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// There is a stream where none was. Most end at once, and cost no word.
    pub(crate) fn begun(&mut self, now: Instant) {
        self.due = self.due.min(now + FIRST);
    }

    /// Looks at the traffic, with or without streams; what is to be said now.
    pub(crate) fn look(&mut self, now: Instant, traffic: Traffic, busy: bool) -> Option<Word> {
        let moved = (traffic.sent - self.seen.sent) + (traffic.received - self.seen.received);
        // A word and its acknowledgement are no use, nor is one that was on its way.
        if busy && moved > 1 + 2 * u64::from(self.said) {
            self.used = Some(now);
        }
        let in_use = self.used.is_some_and(|used| now < used + REST);
        let deaf = self.spoke.is_some() && traffic.received == self.before;
        self.seen = traffic;
        self.said = false;

        let Some(spoke) = self.spoke else { return Some(self.first(now, traffic)) };
        let pause = if deaf && busy { self.promised.min(DEAF) } else { self.promised };
        let is_due = now >= speak_at(spoke, pause);
        let next = match busy {
            false => self.idle,
            true if in_use => FIRST.min(self.busy),
            true if !is_due => self.promised,
            true if deaf => (2 * self.promised).min(DEAF).min(self.busy),
            true => (2 * self.promised).min(self.busy),
        };
        let word = (is_due || next < self.promised).then_some(Word { next, urgent: deaf && busy });
        if word.is_some() {
            self.speak(now, traffic, next);
        }
        let due = self.spoke.map_or(now, |spoke| speak_at(spoke, self.promised));
        self.due = if busy { due.min(now + LISTEN) } else { due };
        word
    }

    fn first(&mut self, now: Instant, traffic: Traffic) -> Word {
        let next = part_of(self.idle);
        self.speak(now, traffic, next);
        self.due = speak_at(now, next);
        Word { next, urgent: false }
    }

    fn speak(&mut self, now: Instant, traffic: Traffic, next: Duration) {
        self.spoke = Some(now);
        self.promised = next;
        self.before = traffic.received;
        self.said = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An agent on a network that carries everything, or nothing, at once.
    struct World {
        rhythm: Rhythm,
        start: Instant,
        now: Instant,
        traffic: Traffic,
        busy: bool,
        /// Whether acknowledgements come back.
        connected: bool,
        /// How often streams send something, and when they do next.
        lines: Option<(Duration, Instant)>,
        /// When it spoke, and what it promised.
        words: Vec<(Instant, Word)>,
        /// When any datagram of it was sent.
        signs: Vec<Instant>,
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let rhythm = Rhythm::new(LONGEST, LONGEST, now);
            let mut world = Self {
                rhythm,
                start: now,
                now,
                traffic: Traffic::default(),
                busy: false,
                connected: true,
                lines: None,
                words: Vec::new(),
                signs: Vec::new(),
            };
            world.run(10 * SECOND);
            world
        }

        fn send(&mut self) {
            self.traffic.sent += 1;
            self.traffic.received += u64::from(self.connected);
            self.signs.push(self.now);
        }

        fn look(&mut self) {
            if let Some(word) = self.rhythm.look(self.now, self.traffic, self.busy) {
                self.words.push((self.now, word));
                self.send();
            }
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            loop {
                let line = self.lines.map_or(end, |(_, at)| at);
                self.now = self.rhythm.due().min(line).min(end);
                if self.now == end {
                    return;
                }
                if self.rhythm.due() <= self.now {
                    self.look();
                }
                if let Some((every, at)) = &mut self.lines
                    && *at <= self.now
                {
                    *at += *every;
                    self.send();
                }
            }
        }

        fn begin(&mut self) {
            self.busy = true;
            self.rhythm.begun(self.now);
        }

        fn words_since(&self, since: Instant) -> Vec<(Duration, u128)> {
            let later = self.words.iter().filter(|(at, _)| *at >= since);
            later.map(|(at, word)| (*at - since, word.next.as_millis())).collect()
        }

        /// Asserts that no promise was broken, as a server sees it.
        fn assert_kept(&self) {
            for (index, (said, word)) in self.words.iter().enumerate() {
                let until = self.words.get(index + 1).map_or(self.now, |(at, _)| *at);
                let mut last = *said;
                let signs = self.signs.iter().filter(|at| **at > *said && **at <= until);
                for sign in signs.chain([&until]) {
                    assert!(*sign - last <= word.next, "{:?} after {:?}", *sign - last, last - self.start);
                    last = *sign;
                }
            }
        }
    }

    #[test]
    fn without_streams_it_speaks_as_often_as_it_has_to_and_not_together_with_others() {
        let world = World::new();
        let first = world.words[0];
        assert!(first.0 == world.start && first.1.next >= FIRST && first.1.next <= LONGEST);
        assert_eq!(world.words[1].0, speak_at(world.start, first.1.next));
        for pair in world.words[1..].windows(2) {
            assert_eq!((pair[1].0 - pair[0].0, pair[1].1.next), (LONGEST, LONGEST));
            assert_eq!(behind_grid(pair[0].0), Duration::ZERO);
        }
        world.assert_kept();
    }

    #[test]
    fn a_stream_that_ends_at_once_costs_no_word() {
        let mut world = World::new();
        let words = world.words.len();
        world.begin();
        world.send();
        world.run(ms(100));
        world.busy = false;
        world.run(10 * SECOND);
        assert!(world.words.len() - words <= 5, "{:?}", world.words);
        assert!(world.words.iter().skip(1).all(|(_, word)| word.next == LONGEST));
        world.assert_kept();
    }

    #[test]
    fn with_streams_in_use_it_is_heard_often_and_with_idle_ones_ever_more_rarely() {
        let mut world = World::new();
        let began = world.now;
        world.lines = Some((ms(100), began));
        world.begin();
        world.run(3 * SECOND);
        let words = world.words_since(began + LISTEN);
        assert!(words.len() >= 9 && words.iter().all(|(_, next)| *next == 250), "{words:?}");

        let quiet = world.now;
        world.lines = None;
        world.run(20 * SECOND);
        let words = world.words_since(quiet);
        // The first may be of the last line.
        let promised: Vec<_> = words.iter().map(|(_, next)| *next).skip_while(|next| *next == 250).collect();
        assert_eq!(promised[..5], [500, 1000, 2000, 2400, 2400], "{words:?}");

        // With a line per second it never rests.
        let followed = world.now;
        world.lines = Some((SECOND, followed));
        world.run(20 * SECOND);
        let words = world.words_since(followed + LISTEN);
        assert!(words.len() >= 60 && words.iter().all(|(_, next)| *next == 250), "{words:?}");
        world.lines = None;
        world.run(20 * SECOND);

        // One line, and it is back at once.
        let again = world.now;
        world.lines = Some((SECOND, again));
        world.run(LISTEN);
        assert!(world.words_since(again).iter().any(|(_, next)| *next == 250));
        world.assert_kept();
    }

    #[test]
    fn when_the_streams_have_ended_one_word_takes_the_short_promise_back() {
        let mut world = World::new();
        world.lines = Some((ms(100), world.now));
        world.begin();
        world.run(3 * SECOND);
        let ended = world.now;
        (world.busy, world.lines) = (false, None);
        world.run(2 * SECOND);
        assert!(matches!(world.words_since(ended)[..], [(_, 2400)]), "{:?}", world.words_since(ended));
        world.assert_kept();
    }

    #[test]
    fn one_with_streams_that_hears_nothing_speaks_every_second_and_urgently() {
        let mut world = World::new();
        world.begin();
        world.run(20 * SECOND);
        (world.connected, world.now) = (false, world.now);
        let cut = world.now;
        world.run(20 * SECOND);
        let words = world.words_since(cut + LONGEST + SECOND);
        assert!(words.len() >= 15, "{words:?}");
        assert!(words.windows(2).all(|pair| pair[1].0 - pair[0].0 <= DEAF), "{words:?}");
        assert!(world.words.last().is_some_and(|(_, word)| word.urgent && word.next == DEAF));
        world.assert_kept();

        // Without streams there is nobody for whom to hurry.
        world.busy = false;
        world.run(5 * SECOND);
        assert!(world.words.last().is_some_and(|(_, word)| !word.urgent && word.next == LONGEST));
    }

    #[test]
    fn a_server_that_reads_no_promise_hears_of_streams_every_second() {
        let mut world = World::new();
        world.rhythm = Rhythm::new(LONGEST, UNPROMISED / 2, world.now);
        world.begin();
        let began = world.now;
        world.run(20 * SECOND);
        let words = world.words_since(began);
        assert!(words[1..].windows(2).all(|pair| pair[1].0 - pair[0].0 <= SECOND), "{words:?}");
    }

    #[test]
    fn the_server_waits_for_longer_than_a_promise_and_believes_no_fancy_ones() {
        let now = Instant::now();
        assert!(overdue_at(now, ms(250), ms(40)) > now + ms(250 + 80));
        assert_eq!(promised(0), UNPROMISED);
        assert_eq!(promised(250), ms(250));
        assert_eq!(promised(u32::MAX), BELIEVED);
    }

    #[test]
    fn the_grid_is_never_early_and_hardly_late() {
        let now = Instant::now();
        for step in 0..200 {
            let at = now + step * ms(7);
            let on = on_grid(at);
            assert!(on >= at && on < at + GRID && on_grid(on) == on);
            let spoken = speak_at(at, LONGEST);
            assert!(spoken <= at + LONGEST && spoken > at + LONGEST - GRID && on_grid(spoken) == spoken);
            assert_eq!(speak_at(on, ms(20)), on + ms(20));
        }
    }
}
