//! Every target on its corpus, and on mutations of it.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tunnel_fuzz::ALL;

/// Mutations of each target's corpus. `FUZZ_MUTATIONS` gives another number.
const MUTATIONS: usize = 20_000;

fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .map(|path| {
            let input = fs::read(&path).unwrap();
            (path, input)
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

#[test]
fn every_input_that_was_kept_holds() {
    for (name, target) in ALL {
        for (path, input) in corpus(name) {
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                panic!("{name}: {} breaks a promise; the panic above says which", path.display());
            }
        }
    }
}

#[test]
fn mutations_of_what_was_kept_hold() {
    let mutations = std::env::var("FUZZ_MUTATIONS").map_or(MUTATIONS, |text| text.parse().unwrap());
    for (name, target) in ALL {
        let corpus = corpus(name);
        let seed: u64 = rand::random();
        let mut random = SmallRng::seed_from_u64(seed);
        for number in 0..mutations {
            let input = mutated(&corpus, &mut random);
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                panic!("{name}: mutation {number} of seed {seed} breaks a promise: {input:?}");
            }
        }
    }
}

/// One input with up to four changes: bytes flipped, put in, taken out, repeated, or the tail of another input.
fn mutated(corpus: &[(PathBuf, Vec<u8>)], random: &mut SmallRng) -> Vec<u8> {
    let mut input = corpus[random.random_range(0..corpus.len())].1.clone();
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=input.len());
        match random.random_range(0..5) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 => input.insert(at, random.random()),
            2 if at < input.len() => drop(input.remove(at)),
            3 => {
                let end = random.random_range(at..=input.len().min(at + 64));
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = &corpus[random.random_range(0..corpus.len())].1;
                input.truncate(at);
                input.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
        }
    }
    input
}
