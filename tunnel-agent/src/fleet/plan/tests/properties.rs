//! Properties of the plan in random worlds.

use proptest::prelude::*;

use super::*;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// An event in a world.
#[derive(Debug, Clone)]
enum Happens {
    Time(u64),
    Behind(u8, Behind),
    Name(usize, Vec<u8>),
    NameFails(usize),
    Dies(usize),
    Drains(usize),
    FallsSilent(usize),
    IsHeardAgain,
    IsGivenUp,
    Count(Option<u32>),
    Leases(u32, Vec<u8>),
}

fn behind() -> impl Strategy<Value = Behind> {
    prop_oneof![
        3 => prop::sample::subsequence(IDS.to_vec(), 1..=4).prop_map(Behind::Servers),
        1 => Just(Behind::Refuses),
        1 => Just(Behind::Silent),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let addrs = || prop::collection::vec(1..=6_u8, 0..5);
    prop_oneof![
        4 => (0..100_000_u64).prop_map(Happens::Time),
        3 => (1..=6_u8, behind()).prop_map(|(n, behind)| Happens::Behind(n, behind)),
        1 => (0..2_usize, addrs()).prop_map(|(n, addrs)| Happens::Name(n, addrs)),
        1 => (0..2_usize).prop_map(Happens::NameFails),
        2 => (0..IDS.len()).prop_map(Happens::Dies),
        1 => (0..IDS.len()).prop_map(Happens::Drains),
        2 => (0..IDS.len()).prop_map(Happens::FallsSilent),
        1 => Just(Happens::IsHeardAgain),
        1 => Just(Happens::IsGivenUp),
        1 => prop::option::of(0..7_u32).prop_map(Happens::Count),
        2 => (0..7_u32, addrs()).prop_map(|(count, addrs)| Happens::Leases(count, addrs)),
    ]
}

fn let_happen(world: &mut World, happens: Happens) {
    match happens {
        Happens::Time(ms) => world.pass(Duration::from_millis(ms)),
        Happens::Behind(n, behind) => world.put(n, behind),
        Happens::Name(n, addrs) => {
            world.names.insert(format!("name-{n}"), addrs.into_iter().map(addr).collect());
        }
        Happens::NameFails(n) => drop(world.names.remove(&format!("name-{n}"))),
        Happens::Dies(n) => {
            if world.held().contains(IDS[n]) {
                world.lose(IDS[n]);
            }
        }
        Happens::Drains(n) => world.drain(IDS[n]),
        Happens::FallsSilent(n) => world.silence(IDS[n]),
        Happens::IsHeardAgain => world.hear(),
        Happens::IsGivenUp => world.give_up(),
        Happens::Count(count) => world.count = count,
        Happens::Leases(count, addrs) => world.lease(count, &addrs),
    }
    let (connected, wanted) = world.numbers();
    assert_eq!(connected, world.held().len());
    assert!(wanted >= 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// [`World::act`] and [`World::held`] check invariants at each step. In the end, all
    /// reachable servers are held, and dials are rare.
    #[test]
    fn an_agent_settles_after_whatever_happened(
        seed in any::<u64>(),
        forever in any::<bool>(),
        upgrades in any::<bool>(),
        link in prop_oneof![Just(Link::H2), Just(Link::Quic)],
        story in prop::collection::vec(happens(), 0..40),
        in_leases in prop::collection::vec(1..=6_u8, 0..5),
    ) {
        let hosts = ["10.0.0.1", "name-0", "10.0.0.2", "name-1"];
        let mut world = World::of(&hosts, Manner { forever, upgrades, ..manner() }, CountSource::Max, seed);
        world.link = link;
        for happens in story {
            let_happen(&mut world, happens);
        }

        // All servers recover, and none drains.
        world.names = [("name-0", vec![addr(2), addr(3)]), ("name-1", vec![addr(4)])]
            .map(|(name, addrs)| (name.to_owned(), addrs)).into();
        for (n, id) in (1..=3).zip(IDS) {
            world.put(n, one(id));
        }
        world.put(4, Behind::Servers(vec!["c", "d", "e"]));
        world.put(5, Behind::Refuses);
        world.put(6, Behind::Refuses);
        world.give_up();
        for id in IDS {
            if world.held().contains(id) {
                world.lose(id);
            }
        }
        world.lease(5, &in_leases);
        world.count = Some(4);
        world.pass(Duration::from_secs(1_500));
        prop_assert_eq!(world.held(), BTreeSet::from(IDS));
        prop_assert_eq!(world.numbers(), (5, 5));

        let hour = world.count_dials(Duration::from_secs(3_600));
        let quiet = if forever { 4_100 } else { 60 };
        prop_assert!(hour <= quiet, "{} dials in a quiet hour: {:?}", hour, &world.dialled[hour - 20..]);
    }

    /// The number of handshakes that one agent can cost.
    #[test]
    fn an_agent_never_dials_faster_than_its_pace(seed in any::<u64>(), worlds in prop::collection::vec(behind(), 6)) {
        let mut world = World::new(&["10.0.0.1", "10.0.0.2", "10.0.0.3"], seed);
        world.count = Some(5);
        for (n, behind) in (1..).zip(worlds) {
            world.put(n, behind);
        }
        world.pass(Duration::from_secs(60));
        let dials = world.count_dials(Duration::from_secs(100));
        // A search per interval, and per dead address one per half of the cap.
        prop_assert!(dials <= 112 + 3 * 45, "{} dials in 100 s", dials);
    }
}
