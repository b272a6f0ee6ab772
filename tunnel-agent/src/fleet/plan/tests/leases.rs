//! Addresses in Leases, beside a load balancer at 10.0.0.1.

use super::*;

const SERVERS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The addresses of [`SERVERS`].
const THEIRS: [u8; 5] = [11, 12, 13, 14, 15];

impl World {
    /// Five servers, each at an address of its own.
    fn five(seed: u64) -> Self {
        let mut world = Self::new(&["10.0.0.1"], seed);
        world.put(1, Behind::Servers(SERVERS.to_vec()));
        for (n, id) in THEIRS.into_iter().zip(SERVERS) {
            world.put(n, one(id));
        }
        world
    }

    /// Waits until so many servers are held.
    fn until(&mut self, servers: usize) -> Duration {
        let began = self.now;
        while self.held().len() < servers {
            assert!(self.now - began < s(600), "{:?}", self.held());
            self.pass(Duration::from_millis(10));
        }
        self.now - began
    }

    fn dials_to(&self, n: u8) -> usize {
        self.dialled.iter().filter(|dial| dial.addr == addr(n)).count()
    }
}

/// Median and 95th percentile of the time until five servers are held.
fn time_to_hold_five(prepare: impl Fn(&mut World)) -> (Duration, Duration) {
    let mut took: Vec<_> = (0..200)
        .map(|seed| {
            let mut world = World::five(seed);
            let began = world.now;
            prepare(&mut world);
            world.until(5);
            world.now - began
        })
        .collect();
    took.sort();
    (took[100], took[190])
}

#[test]
fn five_servers_that_tell_their_addresses_are_held_without_a_search() {
    let by_dice = time_to_hold_five(|world| world.count = Some(5));
    let by_address = time_to_hold_five(|world| {
        // The API's first answer, after the first tunnel.
        world.pass(Duration::from_millis(50));
        world.lease(5, &THEIRS);
    });
    println!("median and 95th percentile: {by_dice:?} by dice, {by_address:?} by address");
    assert!(by_address.1 < Duration::from_millis(100), "{by_address:?}");
    assert!(by_dice.0 > s(2), "{by_dice:?}");

    let mut world = World::five(30);
    world.lease(5, &THEIRS);
    world.pass(s(5));
    assert_eq!((world.held(), world.numbers()), (SERVERS.into(), (5, 5)));
    // Five addresses, and the load balancer leads to one of the servers behind them.
    assert!(world.dialled.len() <= 7, "{:?}", world.dialled);
    assert!(world.count_dials(s(3600)) <= 26, "the balancer is looked at rarely, as any alias is");
    assert!(THEIRS.into_iter().all(|n| world.dials_to(n) == 0), "{:?}", world.dialled);
}

#[test]
fn a_balancer_that_always_leads_to_one_server_hides_none_that_tells_its_address() {
    let mut world = World::five(31);
    world.put(1, one("a"));
    world.lease(5, &THEIRS);
    world.pass(s(1));
    assert_eq!((world.held(), world.numbers()), (SERVERS.into(), (5, 5)));
}

#[test]
fn the_search_goes_on_at_its_pace_for_a_server_without_an_address() {
    let mut took = Vec::new();
    for seed in 0..100 {
        let mut world = World::five(seed);
        // The last one is Konnectivity's, or has no flag.
        world.lease(5, &THEIRS[..4]);
        took.push(world.until(5));
        assert!(
            world
                .dialled
                .iter()
                .filter(|dial| dial.purpose == Purpose::Search)
                .all(|dial| dial.addr == addr(1))
        );
    }
    took.sort();
    // A search has one chance in five, four times a second.
    assert!(took[50] < s(2) && took[95] < s(8), "{:?}, {:?}", took[50], took[95]);
}

#[test]
fn addresses_out_of_reach_slow_no_search_and_are_left_alone_once_all_servers_are_held() {
    let time = |addresses: &[u8], behind: &Behind| {
        let mut took = Vec::new();
        for seed in 0..20 {
            let mut world = World::five(seed);
            for n in addresses {
                world.put(*n, behind.clone());
            }
            world.lease(5, addresses);
            took.push(world.until(5));
            assert_eq!(world.numbers(), (5, 5), "none of them is missed");
            assert!(world.plan.gaps().is_empty());
            world.pass(NEVER);
            assert_eq!(world.count_dials(s(3600)), 0);
        }
        took.sort();
        took[10]
    };
    let without = time(&[], &Behind::Silent);
    let all: Vec<u8> = (100..164).collect();
    for (addresses, behind) in
        [(&THEIRS[..], Behind::Refuses), (&THEIRS[..], Behind::Silent), (&all[..], Behind::Silent)]
    {
        let with = time(addresses, &behind);
        assert!(with < without + s(1), "{with:?} with {} addresses, {without:?} without", addresses.len());
    }
}

#[test]
fn an_address_out_of_reach_backs_off_ever_longer_and_is_tried_again_after_a_blackout() {
    let mut world = World::five(32);
    world.put(1, one("a"));
    world.put(12, Behind::Refuses);
    world.lease(2, &[12]);
    world.pass(s(60));
    assert_eq!((world.held(), world.numbers()), (set(&["a"]), (1, 2)));
    assert_eq!(world.plan.gaps().len(), 1, "somebody may ask for the reason");
    let (first, second) = {
        world.count_dials(s(600));
        let first = world.dials_to(12);
        world.count_dials(s(6000));
        (first, world.dials_to(12))
    };
    assert!((1..=12).contains(&first) && (10..=45).contains(&second), "{first} in 10 min, {second} in 100");
    // A blackout ends: the address is dialled with the operator's own.
    world.put(1, Behind::Refuses);
    world.lose("a");
    world.pass(s(3000));
    world.put(1, one("a"));
    world.put(12, one("b"));
    world.pass(CAP + s(2));
    assert_eq!(world.held(), set(&["a", "b"]));
}

#[test]
fn a_server_found_behind_the_balancer_is_neither_given_up_nor_doubled_for_its_address() {
    let mut world = World::five(33);
    world.count = Some(5);
    world.until(5);
    let tunnels = world.tunnels.clone();
    world.lease(5, &THEIRS);
    assert_eq!(world.count_dials(s(3600)), 0, "all servers are held");
    assert_eq!(world.tunnels, tunnels);
    // One more: its address leads to it, and the others to servers that are held.
    world.put(16, one("f"));
    world.lease(6, &[11, 12, 13, 14, 15, 16]);
    world.pass(s(3));
    assert_eq!((world.held().len(), world.numbers()), (6, (6, 6)));
    assert!(world.dialled.len() <= 16, "{} dials", world.dialled.len());
    assert_eq!(world.count_dials(s(3600)), 0);
    // One that is wanted and nowhere: addresses that lead to servers held are not dialled for it.
    world.lease(7, &[11, 12, 13, 14, 15, 16]);
    world.count_dials(s(3600));
    assert!((11..=16).all(|n| world.dials_to(n) <= 1), "{:?}", world.dialled);
}

#[test]
fn a_server_that_restarts_is_found_at_its_address_as_soon_as_at_an_operators() {
    let mut world = World::five(34);
    world.put(1, one("a"));
    world.lease(5, &THEIRS);
    world.pass(s(60));
    world.put(12, Behind::Refuses);
    world.lose("b");
    world.pass(s(4));
    world.put(12, one("b"));
    // Its back-off has begun anew with the loss.
    world.pass(s(8));
    assert_eq!(world.held(), SERVERS.into());
}

#[test]
fn an_address_that_left_the_leases_keeps_its_tunnel_and_is_not_dialled_again() {
    let mut world = World::five(35);
    world.put(1, one("a"));
    world.lease(2, &[11, 12]);
    world.pass(s(5));
    assert_eq!(world.held(), set(&["a", "b"]));
    world.lease(1, &[11]);
    world.pass(s(600));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "b"]), (2, 1)));
    world.lose("b");
    world.count_dials(s(600));
    assert_eq!((world.held(), world.dials_to(12)), (set(&["a"]), 0));
}

#[test]
fn an_address_that_the_operator_lists_is_one_endpoint_under_the_operators_name() {
    let mut world = World::new(&["balancer", "10.0.0.2"], 36);
    world.names.insert("balancer".into(), vec![addr(1)]);
    world.put(1, one("a"));
    world.put(2, Behind::Refuses);
    world.put(3, one("c"));
    world.lease(3, &[1, 2, 3]);
    world.pass(s(5));
    assert_eq!((world.held(), world.numbers()), (set(&["a", "c"]), (2, 3)));
    let named: Vec<_> = world.plan.endpoints.iter().map(ToString::to_string).collect();
    // A Lease names an address, and never the name in the certificate.
    assert_eq!(named, ["10.0.0.1:8091 (balancer)", "10.0.0.2:8091", "10.0.0.3:8091 (balancer)"]);
}

#[test]
fn a_thousand_agents_do_not_dial_a_new_server_in_one_moment() {
    let mut after = Vec::new();
    for seed in 0..1000 {
        let mut world = World::five(seed);
        world.put(1, one("a"));
        world.lease(1, &[11]);
        world.pass(s(60));
        world.dialled.clear();
        let told_at = world.now;
        world.lease(2, &[11, 12]);
        world.until(2);
        let found = world.dialled.iter().find(|dial| dial.addr == addr(12)).unwrap();
        after.push((found.at - told_at).as_millis());
    }
    for fifth in 0..5 {
        let in_it = after.iter().filter(|ms| *ms / 200 == fifth).count();
        assert!((100..=300).contains(&in_it), "{in_it} in fifth {fifth} of the first second");
    }
}
