//! Names: their lookups, and addresses that come and vanish.

use super::*;

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
    world.lease(2, &[]);
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
