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
fn a_search_goes_at_the_interval_and_slows_down_when_it_is_in_vain() {
    let mut world = World::new(&["10.0.0.1"], 8);
    world.put(1, one("a"));
    world.count = Some(2);
    let dials = world.count_dials(s(10));
    assert!((9..=12).contains(&dials), "{dials} dials in ten seconds");
    let steady: Vec<_> = world.dialled.windows(2).map(|two| two[1].at - two[0].at).collect();
    let of = (INTERVAL.mul_f64(0.9) + QUICK, INTERVAL.mul_f64(1.1) + QUICK);
    assert!(steady.iter().all(|wait| *wait >= of.0 && *wait <= of.1), "{steady:?}");
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
    assert!((9..=13).contains(&dials), "{dials} dials in ten seconds");
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
        world.plan.leased(leases, world.now);
        world.pass(s(120));
        assert_eq!(world.numbers(), (wanted, wanted), "{source:?} {leases:?}");
    }
    // More leases, more servers.
    let mut world = World::new(&["10.0.0.1"], 13);
    world.put(1, Behind::Servers(vec!["a", "b", "c"]));
    world.plan.leased(Some(1), world.now);
    world.pass(s(60));
    assert_eq!(world.numbers(), (1, 1));
    world.plan.leased(Some(3), world.now);
    world.pass(s(60));
    assert_eq!(world.numbers(), (3, 3));
    // Fewer do not end tunnels.
    world.plan.leased(Some(2), world.now);
    world.pass(s(60));
    assert_eq!(world.numbers(), (3, 2));
}
