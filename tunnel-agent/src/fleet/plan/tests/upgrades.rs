//! Upgrades of a tunnel from h2 to QUIC.

use super::*;

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
