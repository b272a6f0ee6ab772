//! Tunnels on QUIC that shake hands and fall silent, and servers that ask for h2.

use super::*;

fn automatic(seed: u64) -> World {
    let mut world =
        World::of(&["10.0.0.1"], Manner { upgrades: true, ..manner() }, CountSource::Default, seed);
    world.put(1, one("a"));
    world
}

/// The link of the only tunnel in use.
fn link(world: &World) -> Link {
    let mut tunnels = world.plan.tunnels().filter(|tunnel| tunnel.state == "connected");
    let tunnel = tunnels.next().expect("a tunnel");
    assert!(tunnels.next().is_none());
    tunnel.link
}

/// A router drops each UDP flow after a while; see also `badnet cut`.
#[test]
fn quic_that_dies_again_and_again_costs_one_outage_and_is_tried_ever_less() {
    let mut world = automatic(41);
    let (mut outages, mut on_quic) = (0, Vec::new());
    for _ in 0..4 * 3600 {
        world.pass(s(1));
        let tunnel = world.plan.tunnels().next().map(|tunnel| (tunnel.since, tunnel.link));
        // Any flow of QUIC is dead after half a minute, which shows 15 s later.
        if let Some((since, Link::Quic)) = tunnel
            && world.now - since > s(45)
        {
            on_quic.push(since);
            world.silence("a");
            outages += usize::from(world.held().is_empty());
            world.give_up();
            world.pass(INTERVAL);
            assert_eq!(link(&world), Link::H2);
        }
    }
    assert_eq!(outages, 1, "later, h2 was there beside QUIC");
    // Four hours: one to begin with, and after 1, 2, 4, 8, 16, 32, 60, 60 minutes.
    assert!((8..=10).contains(&on_quic.len()), "{}", on_quic.len());
    let pauses: Vec<_> = on_quic.windows(2).map(|two| (two[1] - two[0]).as_secs()).collect();
    assert!(pauses[0] >= 54 + 45 && pauses.windows(2).take(5).all(|two| two[1] > two[0]), "{pauses:?}");
}

#[test]
fn a_tunnel_on_h2_is_given_up_once_quic_has_carried_something() {
    let mut world = automatic(42);
    world.link = Link::H2;
    world.pass(s(1));
    while link(&world) == Link::H2 {
        world.pass(s(1));
    }
    assert_eq!(world.spares.len(), 1);
    world.pass(s(110));
    assert_eq!(world.spares.len(), 1, "it stands by");
    world.pass(s(20));
    assert_eq!(world.spares.len(), 0, "its turn is over");
    assert_eq!((link(&world), world.held(), world.numbers()), (Link::Quic, set(&["a"]), (1, 1)));
    assert_eq!(world.count_dials(s(3600)), 0);
}

#[test]
fn on_trial_either_tunnel_may_end_without_a_gap() {
    for spare_first in [true, false] {
        let mut world = automatic(43);
        world.link = Link::H2;
        world.pass(s(1));
        while link(&world) == Link::H2 {
            world.pass(s(1));
        }
        let (spare, quic) = (*world.spares.keys().next().unwrap(), *world.tunnels.keys().next().unwrap());
        assert!(!world.plan.ended("a", if spare_first { spare } else { quic }, world.now));
        assert_eq!(world.plan.held().count(), 1);
        assert_eq!(link(&world), if spare_first { Link::Quic } else { Link::H2 });
        assert!(world.plan.ended("a", if spare_first { quic } else { spare }, world.now));
        assert_eq!(world.plan.held().count(), 0);
    }
}

#[test]
fn a_blackout_of_a_tunnel_that_lasted_leaves_it_on_quic() {
    let mut world = automatic(44);
    world.pass(s(3600));
    world.silence("a");
    world.pass(s(5));
    assert_eq!((link(&world), world.dialled.len()), (Link::Quic, 2));
    // The second one in a row moves it.
    world.silence("a");
    world.pass(s(5));
    assert_eq!((link(&world), world.dialled.len()), (Link::H2, 3));
}

#[test]
fn servers_move_their_agents_to_h2_and_set_them_free_again() {
    let mut world = automatic(45);
    world.pass(s(60));
    assert_eq!(link(&world), Link::Quic);
    world.told = true;
    world.lose("a");
    world.pass(s(5));
    assert_eq!((link(&world), world.held()), (Link::H2, set(&["a"])));
    assert_eq!(world.dialled.len(), 3, "it is told on QUIC");
    assert_eq!(world.count_dials(s(3600)), 0);
    world.told = false;
    world.lose("a");
    world.pass(s(900));
    assert_eq!(link(&world), Link::Quic);
    // Agents with a link by flag are not moved.
    let mut world = World::new(&["10.0.0.1"], 46);
    world.put(1, one("a"));
    world.told = true;
    world.pass(s(60));
    assert_eq!(link(&world), Link::Quic);
}
