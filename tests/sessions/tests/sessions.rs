//! The recorded sessions, and mutations of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_sessions::{Course, Kept, Lane, Manner, Session, World, judge_recorded, run};

/// Mutations of each lane. `SESSION_MUTATIONS` gives another number.
const MUTATIONS: u64 = 80;

/// Servers with agents, played with at the same time.
const WORLDS: usize = 3;

/// The same ones in each run, so that a failure shows in the next one too. `tunnel-sessions run` has others.
const SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_recorded_session_succeeds() {
    let world = World::start().await.unwrap();
    for lane in Lane::ALL {
        let recorded = Session::kept(Kept::Recorded, lane).unwrap();
        assert!(!recorded.is_empty(), "nothing was recorded on {lane}");
        for session in recorded {
            let judged = judge_recorded(&world, lane, &session).await;
            judged.unwrap_or_else(|why| panic!("{lane}: {why}"));
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_broke_something_once_hold() {
    let (world, held) = World::start_several(1).await.unwrap().remove(0);
    for lane in Lane::ALL {
        for session in Session::kept(Kept::Found, lane).unwrap() {
            world.play(lane, &session.steps, Manner::HASTY).await.unwrap();
        }
    }
    world.canaries_sing().await;
    world.wait_until_given_back(&held).await;
    Arc::into_inner(world).unwrap().end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_sessions_harm_nobody_else_and_leave_nothing() {
    let end = std::env::var("SESSION_MUTATIONS").map_or(MUTATIONS, |text| text.parse().unwrap());
    let worlds = World::start_several(WORLDS).await.unwrap();
    let next = Lane::ALL.into_iter().map(|lane| (lane, 0)).collect();
    let until = Instant::now() + Duration::from_secs(3600);
    let mut course = Course { seed: SEED, next, end, until, lingering: false };
    let tally = run(&worlds, &mut course).await.unwrap();
    let findings: Vec<_> = tally.findings.iter().map(ToString::to_string).collect();
    let again = format!("tunnel-sessions run --seed {SEED} --count {end}; `show` prints a mutation");
    assert!(findings.is_empty(), "{findings:#?}\nagain with: {again}");
    assert_eq!(tally.tried.values().sum::<u64>(), end * Lane::ALL.len() as u64);
    for (world, _) in worlds {
        Arc::into_inner(world).unwrap().end().await;
    }
}
