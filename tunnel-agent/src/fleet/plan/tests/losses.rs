//! Tunnels that end, drain or fall silent.

use super::*;

#[test]
fn when_a_server_goes_all_its_addresses_are_tried() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2"], 4);
    world.put(1, one("a"));
    world.put(2, one("a"));
    world.pass(s(100));
    world.put(1, Behind::Refuses);
    world.lose("a");
    world.pass(INTERVAL + QUICK);
    assert_eq!(world.held(), set(&["a"]), "on the other address");
    assert_eq!(world.numbers(), (1, 1));
}

#[test]
fn a_server_that_restarts_under_a_new_id_replaces_the_old_one() {
    let mut world = World::new(&["10.0.0.1"], 5);
    world.put(1, one("old"));
    world.pass(s(60));
    world.put(1, Behind::Refuses);
    world.lose("old");
    assert_eq!(world.numbers(), (0, 1));
    world.pass(s(1));
    world.put(1, one("new"));
    world.pass(s(3));
    assert_eq!((world.held(), world.numbers()), (set(&["new"]), (1, 1)));
}

#[test]
fn a_thousand_agents_come_back_soon_and_not_in_one_moment() {
    let mut back = Vec::new();
    for seed in 0..1000 {
        let mut world = World::new(&["10.0.0.1"], seed);
        world.put(1, one("a"));
        world.pass(s(60));
        let lost_at = world.now;
        world.put(1, Behind::Refuses);
        world.lose("a");
        world.pass(Duration::from_millis(500));
        world.put(1, one("a"));
        world.pass(s(30));
        let back_at = world.dialled.iter().find(|dial| dial.at > lost_at && dial.found.is_some());
        back.push(back_at.unwrap().at - lost_at);
    }
    back.sort();
    assert!(back[990] < s(3), "99 of 100 after {:?}", back[990]);
    let in_the_fullest_tenth =
        (0..30).map(|tenth| back.iter().filter(|at| at.as_millis() / 100 == tenth).count()).max();
    assert!(in_the_fullest_tenth < Some(250), "{in_the_fullest_tenth:?} in a tenth of a second");
}

#[test]
fn a_tunnel_that_does_not_last_counts_as_a_failure() {
    let mut world = World::new(&["10.0.0.1"], 6);
    world.put(1, one("a"));
    world.pass(QUICK);
    let start = world.now;
    for _ in 0..30 {
        world.lose("a");
        world.pass(CAP + QUICK);
    }
    // Each of the waits was random below a bound that has reached the cap.
    let waits: Vec<_> = world.dialled.windows(2).map(|two| two[1].at - two[0].at).collect();
    assert!(waits[20..].iter().any(|wait| *wait > 5 * INTERVAL), "{waits:?} since {start:?}");
}

/// On h2, all agents of a server notice its death at one time.
#[test]
fn what_is_lost_on_quic_without_a_word_is_dialled_almost_at_once() {
    let quickly = |link| {
        let back = |seed: &u64| {
            let mut world = World::new(&["10.0.0.1"], *seed);
            world.link = link;
            world.put(1, one("a"));
            world.pass(s(20));
            world.lose("a");
            world.count_dials(INTERVAL / 10 + QUICK) == 1
        };
        (0..50).filter(back).count()
    };
    assert_eq!(quickly(Link::Quic), 50);
    assert!(quickly(Link::H2) < 25, "spread over the interval");
}

#[test]
fn for_a_draining_server_another_one_is_looked_for() {
    let mut world = World::new(&["10.0.0.1"], 20);
    world.put(1, one("a"));
    world.pass(s(60));
    world.put(1, Behind::Servers(vec!["a", "b"]));
    world.drain("a");
    world.pass(s(20));
    // The tunnel to the old one stands until its last stream ends.
    assert_eq!(world.held(), set(&["a", "b"]));
    world.lose("a");
    assert_eq!(world.count_dials(s(600)), 0);
    assert_eq!((world.held(), world.numbers()), (set(&["b"]), (1, 1)));
}

#[test]
fn a_silent_server_counts_as_lost_until_it_is_heard_of_again() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2"], 26);
    world.put(1, one("a"));
    world.put(2, one("b"));
    world.pass(s(20));
    world.put(1, Behind::Silent);
    world.silence("a");
    assert_eq!((world.held(), world.numbers()), (set(&["b"]), (1, 2)));
    assert!(world.count_dials(s(120)) >= 5, "another tunnel is looked for");
    assert!(world.dialled.iter().all(|dial| dial.addr == addr(1)));
    world.hear();
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 2)));
    // One attempt was in flight.
    assert!(world.count_dials(s(3600)) <= 1);
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 2)));
    world.lose("a");
    world.put(1, one("a"));
    world.pass(s(20));
    assert_eq!(world.held(), set(&["a", "b"]));
}

#[test]
fn another_tunnel_to_a_silent_server_takes_its_place() {
    let mut world = World::new(&["10.0.0.1"], 27);
    world.put(1, one("a"));
    world.pass(s(20));
    let old = *world.tunnels.keys().next().unwrap();
    world.silence("a");
    world.pass(s(5));
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 1)));
    assert!(world.suspects.is_empty() && !world.tunnels.contains_key(&old));
    // Later events of the old tunnel change nothing.
    assert!(!world.plan.back("a", old, world.now));
    assert_eq!(world.plan.suspect("a", old, world.now), Silenced::Replaced);
    assert!(!world.plan.ended("a", old, world.now));
    assert_eq!(world.count_dials(s(3600)), 0);
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 1)));
}

#[test]
fn a_silent_server_that_is_given_up_was_lost_before() {
    let mut world = World::new(&["10.0.0.1"], 28);
    world.put(1, one("a"));
    world.pass(s(20));
    let old = *world.tunnels.keys().next().unwrap();
    world.put(1, Behind::Silent);
    world.silence("a");
    world.pass(s(45));
    assert!(world.plan.ended("a", old, world.now));
    world.put(1, one("b"));
    world.pass(s(25));
    assert_eq!((world.held(), world.numbers()), (set(&["b"]), (1, 1)));
}
