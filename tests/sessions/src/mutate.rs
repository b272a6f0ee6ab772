//! Changes to a session. The same seed makes the same ones.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::ears::HEAD;
use crate::lane::{Lane, Speech};
use crate::mend::Lengths;
use crate::session::{Act, Session, Step};

/// Most changes of one mutation. More leave little of the session; fewer find no combinations.
const CHANGES: usize = 3;

/// Most repetitions of a step: some limits of answers, streams and messages are below.
const REPEATED: usize = 150;

/// Values at the borders of what a length or number can be.
const EXTREMES: [u64; 8] = [0, 1, 0x7f, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, u64::MAX];

/// A change to the bytes of a step.
#[derive(Debug, Clone, Copy)]
enum Bytes {
    Flip,
    Set,
    Insert,
    Remove,
    Repeat,
    Truncate,
    Extreme,
    Head,
}

impl Bytes {
    const ALL: [Self; 8] = [
        Self::Flip,
        Self::Set,
        Self::Insert,
        Self::Remove,
        Self::Repeat,
        Self::Truncate,
        Self::Extreme,
        Self::Head,
    ];
}

/// A change to the steps.
#[derive(Debug, Clone, Copy)]
enum Steps {
    Drop,
    Repeat,
    Swap,
    Another,
    Frame,
    Hurry,
    Split,
    Cut,
    Act,
}

impl Steps {
    const ALL: [Self; 9] = [
        Self::Drop,
        Self::Repeat,
        Self::Swap,
        Self::Another,
        Self::Frame,
        Self::Hurry,
        Self::Split,
        Self::Cut,
        Self::Act,
    ];
}

/// The session that a seed and a number make of those of a lane.
pub fn mutated(lane: Lane, recorded: &[Session], seed: u64, number: u64) -> Vec<Step> {
    // Numbers of one seed, and lanes, differ in all bits.
    let place = number.wrapping_mul(8).wrapping_add(lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = SmallRng::seed_from_u64(seed ^ place);
    let Some(session) = recorded.choose(&mut random) else { return Vec::new() };
    let mut steps = session.steps.clone();
    for _ in 0..random.random_range(1..=CHANGES) {
        if random.random_bool(0.6) {
            change_bytes(lane.speech(), &mut steps, &mut random);
        } else {
            change_steps(lane.speech(), &mut steps, recorded, &mut random);
        }
    }
    steps
}

fn change_bytes(speech: Speech, steps: &mut [Step], random: &mut SmallRng) {
    if steps.is_empty() {
        return;
    }
    let at = random.random_range(0..steps.len());
    let Act::Send(bytes) = &mut steps[at].act else { return };
    let lengths = Lengths::of(speech, bytes);
    if let Some(change) = Bytes::ALL.choose(random) {
        change_at(*change, bytes, random);
    }
    if random.random_bool(0.5) {
        lengths.mend(bytes);
    }
}

fn change_at(change: Bytes, bytes: &mut Vec<u8>, random: &mut SmallRng) {
    let at = random.random_range(0..=bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 64));
    match change {
        Bytes::Flip if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
        Bytes::Set if at < bytes.len() => bytes[at] = random.random(),
        Bytes::Insert => {
            let mut more = vec![0; random.random_range(1..=16)];
            random.fill_bytes(&mut more);
            bytes.splice(at..at, more);
        }
        Bytes::Remove => drop(bytes.drain(at..end)),
        Bytes::Repeat => {
            let part = bytes[at..end].repeat(random.random_range(1..=REPEATED));
            bytes.splice(at..at, part);
        }
        Bytes::Truncate => bytes.truncate(at),
        Bytes::Extreme => {
            let value = EXTREMES.choose(random).copied().unwrap_or_default().to_be_bytes();
            let width = [1, 2, 3, 4, 8].choose(random).copied().unwrap_or(1);
            // Most lengths are in heads.
            let at = if random.random_bool(0.5) { at.min(random.random_range(0..16)) } else { at };
            let end = bytes.len().min(at + width);
            bytes[at..end].copy_from_slice(&value[8 - width..][..end - at]);
        }
        Bytes::Head if bytes.len() >= HEAD => {
            let (kind, flags, stream) = (random.random_range(0..12), random.random(), stream_id(random));
            match random.random_range(0..3) {
                0 => bytes[3] = kind,
                1 => bytes[4] = flags,
                _ => bytes[5..HEAD].copy_from_slice(&stream),
            }
        }
        Bytes::Flip | Bytes::Set | Bytes::Head => {}
    }
}

fn stream_id(random: &mut SmallRng) -> [u8; 4] {
    [0, 1, 2, 3, 5, 7, 0x7fff_ffff, u32::MAX].choose(random).copied().unwrap_or(0_u32).to_be_bytes()
}

fn change_steps(speech: Speech, steps: &mut Vec<Step>, recorded: &[Session], random: &mut SmallRng) {
    if steps.is_empty() {
        return;
    }
    let (at, other) = (random.random_range(0..steps.len()), random.random_range(0..steps.len()));
    match Steps::ALL.choose(random).copied().unwrap_or(Steps::Drop) {
        Steps::Drop => drop(steps.remove(at)),
        Steps::Repeat => {
            let most = if random.random_bool(0.5) { 2 } else { REPEATED };
            let copies = vec![steps[at].clone(); random.random_range(1..=most)];
            steps.splice(at..at, copies);
        }
        Steps::Swap => steps.swap(at, other),
        Steps::Another => {
            let all: Vec<&Step> = recorded.iter().flat_map(|session| &session.steps).collect();
            steps.extend(all.choose(random).copied().cloned());
            let last = steps.len() - 1;
            steps.swap(at, last);
        }
        Steps::Frame => steps.insert(at, Step { act: Act::Send(frame(speech, random)), ..steps[at].clone() }),
        Steps::Hurry => steps[at..].iter_mut().for_each(|step| step.after = 0),
        Steps::Split => split(steps, at, random),
        Steps::Cut => steps.truncate(at),
        Steps::Act => {
            let acts = [Act::Finish, Act::Reset, Act::Deaf, Act::Pause];
            let act = acts.choose(random).cloned().unwrap_or(Act::Finish);
            steps.insert(at, Step { act, ..steps[at].clone() });
        }
    }
}

/// A frame of HTTP/2 or a message of any kind.
fn frame(speech: Speech, random: &mut SmallRng) -> Vec<u8> {
    let mut payload = vec![0; random.random_range(0..64)];
    random.fill_bytes(&mut payload);
    match speech {
        Speech::Http2 | Speech::Grpc => {
            let length = (payload.len() as u32).to_be_bytes();
            let head = [random.random_range(0..12), random.random()];
            [&length[1..], &head, &stream_id(random), &payload].concat()
        }
        Speech::Quic => [&(payload.len() as u16).to_be_bytes()[..], &payload].concat(),
        Speech::Http1 => payload,
    }
}

/// Sends a step's bytes in pieces that arrive one by one.
fn split(steps: &mut Vec<Step>, at: usize, random: &mut SmallRng) {
    let Step { after, on, act } = steps[at].clone();
    let Act::Send(bytes) = act else { return };
    let size = random.random_range(1..=bytes.len().max(1)).max(bytes.len() / 8);
    let pieces = bytes
        .chunks(size.max(1))
        .flat_map(|piece| [Step::send(after, on, piece), Step { after, on, act: Act::Pause }]);
    steps.splice(at..=at, pieces.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Vec<Session> {
        let steps = (0..6).map(|n| Step::send(n, 0, vec![n as u8; 40])).collect();
        vec![Session { name: "a".to_owned(), expect: None, steps }]
    }

    #[test]
    fn a_seed_and_a_number_make_one_session() {
        let recorded = recorded();
        for lane in Lane::ALL {
            let all: Vec<_> = (0..2_000).map(|number| mutated(lane, &recorded, 7, number)).collect();
            assert!(all.iter().zip(0..).all(|(steps, number)| *steps == mutated(lane, &recorded, 7, number)));
            let changed = all.iter().filter(|steps| **steps != recorded[0].steps).count();
            assert!(changed > 1_800, "only {changed} of 2000 differ from the recorded session on {lane}");
        }
    }

    #[test]
    fn mutations_are_bounded() {
        let longest = (0..20_000).map(|number| {
            let steps = mutated(Lane::AgentH2, &recorded(), 1, number);
            let sends =
                steps.iter().map(|step| if let Act::Send(bytes) = &step.act { bytes.len() } else { 1 });
            sends.sum::<usize>()
        });
        assert!(longest.max().unwrap() < 10 << 20);
    }
}
