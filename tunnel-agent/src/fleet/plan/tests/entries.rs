//! Listed addresses: each is dialled at once, and a dead one ever more slowly.

use super::*;

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
