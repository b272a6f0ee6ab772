//! One rule per test.

use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn set(ids: &[&'static str]) -> BTreeSet<&'static str> {
    ids.iter().copied().collect()
}

#[test]
fn every_entry_of_a_list_is_dialled_at_once_and_then_left_alone() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 1);
    for (n, id) in [(1, "a"), (2, "b"), (3, "c")] {
        world.put(n, one(id));
    }
    assert_eq!(world.numbers(), (0, 3));
    world.pass(QUICK);
    assert_eq!(world.held(), set(&["a", "b", "c"]));
    assert_eq!(world.numbers(), (3, 3));
    assert_eq!(world.count_dials(s(3600)), 0);
}

#[test]
fn a_dead_entry_does_not_delay_the_others_and_is_tried_ever_more_slowly() {
    for behind in [Behind::Refuses, Behind::Silent] {
        let mut world = World::new(&["10.0.0.1", "10.0.0.2"], 2);
        world.put(1, behind);
        world.put(2, one("b"));
        world.pass(QUICK);
        assert_eq!((world.held(), world.numbers()), (set(&["b"]), (1, 2)));
        world.pass(s(60));
        let dials = world.count_dials(s(600));
        assert!((30..=250).contains(&dials), "{dials} dials in ten minutes at a cap of ten seconds");
        assert!(world.dialled.iter().all(|dial| dial.addr == addr(1)));
        // Once it is there, it is found within the cap.
        world.put(1, one("a"));
        world.pass(NEVER + CAP + QUICK);
        assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 2)));
    }
}

#[test]
fn addresses_of_one_server_are_one_tunnel_and_are_looked_at_rarely() {
    let mut world = World::new(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], 3);
    for n in 1..=3 {
        world.put(n, one("a"));
    }
    world.pass(s(1));
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 1)));
    world.dialled.clear();
    world.pass(s(26));
    assert_eq!(world.dialled.len(), 0, "not before half a minute");
    let first_hour = world.count_dials(s(3600));
    let second_hour = world.count_dials(s(3600));
    assert!(first_hour <= 26 && second_hour <= 14, "{first_hour} and {second_hour} dials");
    // One of them becomes another server.
    world.put(3, one("c"));
    world.pass(s(700));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "c"]), (2, 2)));
}

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

#[test]
fn every_address_of_a_name_is_dialled() {
    let mut world = World::new(&["servers"], 14);
    assert_eq!(world.numbers(), (0, 1), "at least one is behind the name");
    world.pass(s(30));
    assert!((3..=60).contains(&world.lookups), "{} lookups of a name that does not resolve", world.lookups);
    world.names.insert("servers".into(), vec![addr(1), addr(2), addr(3)]);
    for (n, id) in [(1, "a"), (2, "b"), (3, "c")] {
        world.put(n, one(id));
    }
    world.pass(CAP + 3 * QUICK);
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b", "c"]), (3, 3)));
    // A new address is found at the next lookup.
    world.put(4, one("d"));
    world.names.insert("servers".into(), vec![addr(1), addr(2), addr(3), addr(4)]);
    world.pass(s(37));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b", "c", "d"]), (4, 4)));
}

#[test]
fn an_address_that_vanished_keeps_its_tunnel_and_is_not_dialled_again() {
    let mut world = World::new(&["servers"], 15);
    world.names.insert("servers".into(), vec![addr(1), addr(2)]);
    world.put(1, one("a"));
    world.put(2, one("b"));
    world.pass(s(5));
    assert_eq!(world.numbers(), (2, 2));
    world.names.insert("servers".into(), vec![addr(1)]);
    world.pass(s(100));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 1)));
    world.lose("b");
    assert_eq!(world.count_dials(s(600)), 0);
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 1)));
    // A failed lookup keeps the addresses.
    world.names.clear();
    world.lose("a");
    world.pass(s(100));
    assert_eq!(world.held(), set(&["a"]));
}

#[test]
fn a_name_that_moved_is_followed_as_soon_as_its_old_address_fails() {
    let mut world = World::new(&["server"], 16);
    world.names.insert("server".into(), vec![addr(1)]);
    world.put(1, one("a"));
    world.pass(s(2));
    world.names.insert("server".into(), vec![addr(2)]);
    world.put(1, Behind::Silent);
    world.put(2, one("b"));
    world.lose("a");
    world.pass(s(2));
    assert_eq!((world.held(), world.numbers()), (set(&["b"]), (1, 1)));
}

#[test]
fn a_name_is_looked_up_again_while_nobody_is_found_behind_it() {
    // The only address of the name fails.
    let mut world = World::new(&["server"], 25);
    world.names.insert("server".into(), vec![addr(1)]);
    world.put(1, Behind::Refuses);
    world.put(2, one("b"));
    world.pass(s(2));
    world.names.insert("server".into(), vec![addr(2)]);
    world.pass(CAP);
    assert_eq!(world.held(), set(&["b"]));
    // The name is the load balancer: each lookup may lead to another server.
    world.put(3, one("c"));
    world.names.insert("server".into(), vec![addr(3)]);
    world.plan.leased(Some(2), world.now);
    world.pass(s(4));
    assert_eq!(world.held(), set(&["b", "c"]));
}

#[test]
fn the_other_family_of_a_name_is_not_missed() {
    let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 8091));
    let mut world = World::new(&["server"], 17);
    world.names.insert("server".into(), vec![v6, addr(1)]);
    world.put(1, one("a"));
    world.pass(s(60));
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 1)));
    let dials = world.count_dials(s(3600));
    assert!(dials <= 14, "{dials} dials to what does not answer");
    // If it leads to another server, that one is held.
    world.behind.insert(v6, one("b"));
    world.pass(s(700));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 2)));
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
fn a_tunnel_on_h2_is_moved_to_quic_once_that_works() {
    for upgrades in [true, false] {
        let mut world = World::of(&["10.0.0.1"], Manner { upgrades, ..manner() }, CountSource::Default, 21);
        world.put(1, one("a"));
        world.link = Link::H2;
        world.pass(s(1));
        assert_eq!(world.count_dials(s(530)), 0);
        world.pass(s(140));
        let moved = world.dialled.iter().any(|dial| dial.purpose == Purpose::Upgrade("a".into()));
        assert_eq!(moved, upgrades);
        assert_eq!(world.held(), set(&["a"]));
        // One upgrade is enough, and the end of the old tunnel changes nothing.
        world.plan.ended("a", 1, world.now);
        assert_eq!(world.plan.held().count(), usize::from(upgrades));
        if upgrades {
            assert_eq!(world.count_dials(s(3600)), 0);
        }
    }
}

#[test]
fn an_upgrade_that_fails_or_leads_elsewhere_leaves_the_tunnel_alone() {
    let mut world = World::of(&["10.0.0.1"], Manner { upgrades: true, ..manner() }, CountSource::Default, 22);
    world.put(1, one("a"));
    world.link = Link::H2;
    world.pass(s(1));
    world.put(1, Behind::Refuses);
    let dials = world.count_dials(s(3600));
    assert!((5..=7).contains(&dials), "{dials} tries in an hour");
    assert_eq!(world.held(), set(&["a"]));
    world.put(1, one("b"));
    let dials = world.count_dials(s(3600));
    assert_eq!(world.held(), set(&["a", "b"]), "one more is welcome");
    // The new tunnel is on QUIC; the old one stays on h2, and is tried as before.
    assert!((5..=7).contains(&dials), "{dials} tries in an hour");
}

#[test]
fn no_more_attempts_are_made_at_once_than_there_may_be() {
    let hosts: Vec<String> = (1..=60).map(|n| format!("10.0.0.{n}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut world = World::new(&hosts, 23);
    for n in 1..=60 {
        world.put(n, Behind::Silent);
    }
    world.put(60, one("z"));
    // World::act checks the number; the living endpoint has its turn in the end.
    world.pass(s(60));
    assert_eq!((world.held(), world.numbers()), (set(&["z"]), (1, 60)));
}

#[test]
fn a_plan_that_was_stopped_begins_nothing_and_still_counts() {
    let mut world = World::new(&["10.0.0.1", "servers"], 24);
    world.put(1, one("a"));
    world.pass(s(1));
    world.plan.stopped = true;
    world.lose("a");
    assert_eq!(world.count_dials(s(3600)), 0);
    assert_eq!((world.plan.wake(), world.numbers()), (None, (0, 2)));
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
    assert!(!world.plan.suspect("a", old, world.now));
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
