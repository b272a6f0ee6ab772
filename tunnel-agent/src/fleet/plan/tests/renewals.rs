//! Replacements of tunnels whose credentials end.

use super::*;

#[test]
fn a_tunnel_whose_credentials_end_is_replaced_soon_and_once() {
    let mut world = World::new(&["10.0.0.1"], 31);
    world.put(1, one("a"));
    world.pass(s(1));
    assert_eq!(world.plan.replace(1, world.now), Some("a"));
    assert_eq!(world.plan.replace(1, world.now), None, "it is known");
    assert_eq!(world.count_dials(s(3600)), 1);
    assert_eq!(world.dialled[0].purpose, Purpose::Renew("a".into()));
    assert_eq!(world.held(), set(&["a"]));
    // The end of the old tunnel changes nothing.
    assert!(!world.plan.ended("a", 1, world.now));
    assert_eq!(world.plan.replace(1, world.now), None);
    assert_eq!(world.held(), set(&["a"]));
}

#[test]
fn a_replacement_is_tried_until_it_works_while_the_tunnel_stands() {
    let mut world = World::new(&["10.0.0.1"], 32);
    world.put(1, one("a"));
    world.pass(s(1));
    world.put(1, Behind::Refuses);
    world.plan.replace(1, world.now);
    let dials = world.count_dials(s(20));
    assert!((15..=25).contains(&dials), "{dials} tries in 20 s");
    assert_eq!(world.held(), set(&["a"]));
    world.put(1, one("a"));
    world.pass(s(2));
    assert_eq!(world.tunnels.keys().copied().collect::<Vec<_>>(), [2]);
}
