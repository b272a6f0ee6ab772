//! Searches for servers behind a load balancer, and the number wanted.

use super::*;

#[test]
fn behind_a_load_balancer_as_many_servers_are_found_as_there_are_said_to_be() {
    let mut world = World::new(&["10.0.0.1"], 7);
    world.put(1, Behind::Servers(vec!["a", "b", "c"]));
    world.count = Some(3);
    world.pass(s(30));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b", "c"]), (3, 3)));
    assert_eq!(world.count_dials(s(3600)), 0);
    // One goes, and another one comes.
    world.put(1, Behind::Servers(vec!["a", "c"]));
    world.lose("b");
    world.pass(s(20));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "c"]), (2, 3)));
    world.put(1, Behind::Servers(vec!["a", "c", "d"]));
    world.pass(s(60));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "c", "d"]), (3, 3)));
}

#[test]
fn five_servers_behind_a_load_balancer_are_found_within_seconds() {
    let mut took = Vec::new();
    for seed in 0..200 {
        let mut world = World::new(&["10.0.0.1"], seed);
        world.put(1, Behind::Servers(vec!["a", "b", "c", "d", "e"]));
        world.count = Some(5);
        let began = world.now;
        while world.held().len() < 5 {
            world.pass(Duration::from_millis(100));
        }
        took.push(world.now - began);
    }
    took.sort();
    // At one attempt a second the median is ten seconds.
    assert!(took[100] < s(4) && took[190] < s(8), "{:?}, {:?}", took[100], took[190]);
}

#[test]
fn the_largest_number_of_a_server_that_is_held_counts() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 14);
    for (n, server) in [(1, "a"), (2, "b"), (3, "c")] {
        world.put(n, one(server));
    }
    // A server that was started before the sixth one still says five.
    world.counts = BTreeMap::from([("a", 5), ("b", 6), ("c", 5)]);
    world.pass(s(5));
    assert_eq!((world.numbers(), world.plan.told().len()), ((3, 6), 2));
    world.put(2, Behind::Refuses);
    world.lose("b");
    world.pass(s(5));
    assert_eq!((world.numbers(), world.plan.told().len()), ((2, 5), 1));
}

#[test]
fn a_search_in_vain_tells_once_where_its_attempts_led() {
    let mut world = World::new(&["10.0.0.1"], 15);
    world.put(1, one("a"));
    world.count = Some(3);
    world.pass(s(5));
    assert_eq!(world.plan.searched_in_vain(), None, "it has just begun");
    world.pass(s(60));
    let met = world.plan.searched_in_vain().unwrap();
    assert!(met["a"] >= 24 && met.len() == 1, "{met:?}");
    world.pass(s(600));
    assert_eq!(world.plan.searched_in_vain(), None);
    // Another search is another line.
    world.lose("a");
    world.pass(s(120));
    assert!(world.plan.searched_in_vain().is_some());
}

#[test]
fn a_search_is_rapid_then_goes_at_the_interval_and_slows_down_when_it_is_in_vain() {
    let mut world = World::new(&["10.0.0.1"], 8);
    world.put(1, one("a"));
    world.count = Some(2);
    let dials = world.count_dials(s(10));
    assert!((15..=18).contains(&dials), "{dials} dials in ten seconds");
    let waits: Vec<_> = world.dialled.windows(2).map(|two| two[1].at - two[0].at).collect();
    let between = |wait: &Duration, least: f64, most: f64| {
        *wait >= INTERVAL.mul_f64(least) + QUICK && *wait <= INTERVAL.mul_f64(most) + QUICK
    };
    let (rapid, steady) = waits.split_at(8);
    assert!(rapid.iter().all(|wait| between(wait, 0.125, 0.375)), "{rapid:?}");
    assert!(steady.iter().all(|wait| between(wait, 0.9, 1.1)), "{steady:?}");
    world.pass(s(120));
    let dials = world.count_dials(s(100));
    assert!((9..=12).contains(&dials), "{dials} dials in a hundred seconds");
    // Each change makes the search quick again.
    world.put(1, Behind::Servers(vec!["a", "b"]));
    world.pass(s(100));
    assert_eq!(world.held(), set(&["a", "b"]));
    world.put(1, one("b"));
    world.lose("a");
    let dials = world.count_dials(s(10));
    assert!((15..=20).contains(&dials), "{dials} dials in ten seconds");
}

#[test]
fn a_search_is_slow_where_those_missing_have_an_address() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 9);
    world.put(1, one("a"));
    world.put(2, one("b"));
    world.put(3, Behind::Refuses);
    world.count = Some(3);
    world.pass(s(20));
    let searches = world.dialled.iter().filter(|dial| dial.purpose == Purpose::Search).count();
    assert!(searches <= 3, "{searches} searches in 20 s");
    world.pass(s(40));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 3)));
    world.count_dials(s(600));
    let searches = world.dialled.iter().filter(|dial| dial.purpose == Purpose::Search).count();
    assert!((50..=70).contains(&searches), "{searches} searches in ten minutes");
    // They find a load balancer behind another address.
    world.put(1, Behind::Servers(vec!["a", "c"]));
    world.pass(s(300));
    assert_eq!(world.held(), set(&["a", "b", "c"]));
}

#[test]
fn a_thousand_agents_do_not_search_in_one_moment() {
    let mut after = Vec::new();
    for seed in 0..1000 {
        let mut world = World::new(&["10.0.0.1"], seed);
        world.count = Some(2);
        world.put(1, Behind::Servers(vec!["a", "b"]));
        world.pass(s(60));
        world.dialled.clear();
        let lost_at = world.now;
        world.lose("a");
        world.pass(s(3));
        after.push((world.dialled[0].at - lost_at).as_millis());
    }
    for fifth in 0..5 {
        let in_it = after.iter().filter(|ms| *ms / 200 == fifth).count();
        assert!((100..=300).contains(&in_it), "{in_it} in fifth {fifth} of the first second");
    }
}

#[test]
fn forever_means_at_the_interval_for_ever() {
    let forever = Manner { forever: true, ..manner() };
    let mut world = World::of(&["10.0.0.1"], forever, CountSource::Default, 10);
    world.put(1, one("a"));
    world.pass(s(600));
    let dials = world.count_dials(s(100));
    assert!((90..=110).contains(&dials), "{dials} dials in a hundred seconds");
    assert_eq!(world.held(), set(&["a"]));
    // More servers than counted are kept.
    world.put(1, Behind::Servers(vec!["a", "b"]));
    world.pass(s(60));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 1)));
}

#[test]
fn failing_searches_back_off_and_harm_no_tunnel() {
    let mut world = World::new(&["10.0.0.1"], 11);
    world.put(1, one("a"));
    world.count = Some(2);
    world.pass(s(1));
    world.put(1, Behind::Refuses);
    world.pass(s(60));
    let dials = world.count_dials(s(600));
    assert!((60..=250).contains(&dials), "{dials} dials in ten minutes at a cap of ten seconds");
    assert_eq!(world.held(), set(&["a"]));
}

#[test]
fn leases_are_counted_as_the_flags_say() {
    for (source, leases, wanted) in [
        (CountSource::Default, Some(2), 2),
        (CountSource::Default, None, 3),
        (CountSource::Default, Some(0), 1),
        (CountSource::Max, Some(2), 3),
        (CountSource::Max, Some(5), 5),
    ] {
        let mut world = World::of(&["10.0.0.1"], manner(), source, 12);
        world.put(1, Behind::Servers(vec!["a", "b", "c", "d", "e"]));
        world.count = Some(3);
        if let Some(leases) = leases {
            world.lease(leases, &[]);
        }
        world.pass(s(120));
        assert_eq!(world.numbers(), (wanted, wanted), "{source:?} {leases:?}");
    }
    // More leases, more servers.
    let mut world = World::new(&["10.0.0.1"], 13);
    world.put(1, Behind::Servers(vec!["a", "b", "c"]));
    world.lease(1, &[]);
    world.pass(s(60));
    assert_eq!(world.numbers(), (1, 1));
    world.lease(3, &[]);
    world.pass(s(60));
    assert_eq!(world.numbers(), (3, 3));
    // Fewer do not end tunnels.
    world.lease(2, &[]);
    world.pass(s(60));
    assert_eq!(world.numbers(), (3, 2));
}
