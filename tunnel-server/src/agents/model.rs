//! Random histories of tunnels, each step compared with a model that derives every answer anew from the
//! tunnels as they are.
//!
//! `HISTORIES=100000 cargo test --workspace --lib histories` runs more than the ordinary tests. A failure
//! prints its seed, which belongs into [`SEEDS`] once it is mended.

use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tunnel_proto::ident::UnknownKeys;
use tunnel_proto::target::Host;

use super::*;
use crate::canonical::{canonical_host, canonical_network};
use crate::route::Strategy;

/// Histories in an ordinary run, which take a second.
const FEW: u64 = 500;
/// Seeds that once failed.
const SEEDS: [u64; 0] = [];
const STEPS: usize = 24;
const STRATEGIES: [Strategy; 4] =
    [Strategy::Default, Strategy::DefaultRoute, Strategy::DestCidr, Strategy::DestHost];
const CLAIMS: [&str; 8] = [
    "",
    "ipv4=10.0.0.1&host=n1",
    "ipv4=10.0.0.2&host=N1.",
    "cidr=10.0.0.0/24",
    "cidr=10.0.0.0/8&default-route=true",
    "ipv6=::ffff:10.0.0.1",
    "cidr=::ffff:10.0.0.0/120",
    "host=n2&default-route=true",
];
const TARGETS: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.9.9", "192.0.2.1", "n1", "n2"];

fn parse(text: &str) -> Arc<Identifiers> {
    Arc::new(Identifiers::parse(text, UnknownKeys::Refuse).unwrap())
}

/// A tunnel of the history, in the order of registration.
struct Known {
    agent: Arc<AgentTunnel>,
    registration: Registration,
}

/// A tunnel, and the routes for which it gets dials.
type Serving<'a> = (&'a Arc<AgentTunnel>, Routes);

#[derive(Default)]
struct History {
    registry: Registry,
    known: Vec<Known>,
    steps: Vec<String>,
}

fn routes(random: &mut StdRng) -> Routes {
    let mut some = |most: usize| parse(CLAIMS[random.random_range(0..=most)]);
    let (proven, claimed) = (some(3), some(CLAIMS.len() - 1));
    Routes { proven, claimed, any: random.random_bool(0.8) }
}

impl History {
    fn step(&mut self, random: &mut StdRng) {
        if self.known.len() < 6 && random.random_bool(0.4) {
            return self.register(random);
        }
        if self.known.is_empty() {
            return;
        }
        let at = random.random_range(0..self.known.len());
        let agent = Arc::clone(&self.known[at].agent);
        let what = ["leaves", "drains", "is suspect", "is back", "is lost", "has other routes"];
        let what = what.choose(random).copied().unwrap_or_default();
        self.steps.push(format!("{at} {what}"));
        match what {
            "leaves" => return drop(self.known.remove(at)),
            "drains" => agent.set_draining(),
            "is suspect" => agent.set_suspect(Some(Instant::now())),
            "is back" => agent.set_suspect(None),
            "is lost" => return self.registry.lost(&agent),
            _ => agent.routes.store(Arc::new(routes(random))),
        }
        self.known[at].registration.changed();
    }

    fn register(&mut self, random: &mut StdRng) {
        let id = ["a", "b", "c"].choose(random).copied().unwrap_or_default();
        let node = ["n1", "n2"].choose(random).copied().unwrap_or_default();
        let agent = Arc::new(AgentTunnel {
            identity: Identity::Node(node.to_owned()),
            claims: parse(CLAIMS[random.random_range(0..2)]),
            on_trial: random.random_bool(0.2),
            ..AgentTunnel::routed(id, routes(random))
        });
        self.steps.push(format!(
            "{id} of {node} registers: {:?}, on trial: {}",
            agent.routes(),
            agent.on_trial
        ));
        let registration = self.registry.register(Arc::clone(&agent));
        self.known.push(Known { agent, registration });
    }

    /// The tunnels that get dials, each with the routes for which it does.
    fn serving(&self) -> Vec<Serving<'_>> {
        let mut serving = Vec::new();
        let all: Vec<_> = self.known.iter().map(|known| &known.agent).collect();
        let keys: HashSet<_> = all.iter().map(|agent| (&agent.id, &agent.identity)).collect();
        for key in keys {
            let of_key = all.iter().filter(|agent| (&agent.id, &agent.identity) == key);
            let usable: Vec<_> = of_key.filter(|agent| agent.is_usable()).copied().collect();
            let best = |agent: &AgentTunnel| (!agent.is_draining(), !agent.on_trial);
            let Some(most) = usable.iter().map(|agent| best(agent)).max() else { continue };
            let Some(first) = usable.iter().rev().find(|agent| best(agent) == most) else { continue };
            let mut taken = vec![(*first.routes()).clone()];
            serving.push((*first, (*first.routes()).clone()));
            for other in usable.iter().rev() {
                if Arc::ptr_eq(other, first) || other.is_draining() || other.claims == first.claims {
                    continue;
                }
                let rest = without(&other.routes(), &taken);
                taken.push((*other.routes()).clone());
                serving.push((*other, rest));
            }
        }
        serving
    }

    /// The tunnels of which one has to get a dial of the target.
    fn right(&self, serving: &[Serving<'_>], strategy: Strategy, host: &Host) -> Vec<Arc<AgentTunnel>> {
        let owned = self.known.iter().map(|known| known.agent.routes());
        let owned: Vec<_> = owned.map(|routes| Arc::clone(&routes.proven)).collect();
        let names = |ids: &Identifiers| names(ids, host);
        let is_around = owned.iter().any(|ids| prefixes(ids, host).next().is_some());
        let is_owned = is_around || owned.iter().any(|ids| names(ids));
        let of = |wanted: &dyn Fn(&Routes) -> bool| {
            let found: Vec<_> = serving.iter().filter(|(_, routes)| wanted(routes)).collect();
            let drains = found.iter().all(|(agent, _)| agent.is_draining());
            let ready = found.into_iter().filter(|(agent, _)| drains || !agent.is_draining());
            ready.map(|(agent, _)| Arc::clone(agent)).collect::<Vec<_>>()
        };
        let unless = |shadowed: bool, claimed: Vec<_>| if shadowed { Vec::new() } else { claimed };
        let longest = |kind: fn(&Routes) -> &Identifiers| {
            let all = serving.iter().flat_map(|(_, routes)| prefixes(kind(routes), host));
            let Some(most) = all.max() else { return Vec::new() };
            of(&|routes| prefixes(kind(routes), host).any(|bits| bits == most))
        };
        let proven = match strategy {
            Strategy::Default => return of(&|routes| routes.any),
            Strategy::DefaultRoute => of(&|routes| routes.proven.default_route),
            Strategy::DestCidr => longest(|routes| &routes.proven),
            Strategy::DestHost => of(&|routes| names(&routes.proven)),
        };
        if !proven.is_empty() {
            return proven;
        }
        match strategy {
            Strategy::Default => Vec::new(),
            Strategy::DefaultRoute => unless(is_owned, of(&|routes| routes.claimed.default_route)),
            Strategy::DestCidr => unless(is_owned, longest(|routes| &routes.claimed)),
            Strategy::DestHost => unless(is_owned, of(&|routes| names(&routes.claimed))),
        }
    }

    fn check(&self) {
        let serving = self.serving();
        for (strategy, target) in STRATEGIES.into_iter().flat_map(|one| TARGETS.map(|target| (one, target))) {
            let host = Host::parse(target).unwrap();
            let right = self.right(&serving, strategy, &host);
            let view = self.registry.view();
            // Choices among equals are random.
            for _ in 0..2 {
                let picked = view.pick(strategy, &canonical_host(&host), |_| true);
                let is_right = match picked {
                    None => right.is_empty(),
                    Some(picked) => right.iter().any(|one| Arc::ptr_eq(one, picked)),
                };
                let (picked, right) = (picked.map(shown), right.iter().map(shown).collect::<Vec<_>>());
                assert!(is_right, "{strategy:?} {target}: {picked:?} is not among {right:?}");
            }
        }
    }
}

fn shown(agent: &Arc<AgentTunnel>) -> String {
    format!("{} of {}: {:?}", agent.id, agent.identity, agent.routes())
}

fn names(ids: &Identifiers, host: &Host) -> bool {
    ids.hosts.iter().any(|one| *canonical_host(one) == *canonical_host(host))
}

/// The lengths of the prefixes of the networks that contain the host.
fn prefixes(ids: &Identifiers, host: &Host) -> impl Iterator<Item = u8> {
    let host = canonical_host(host).into_owned();
    let networks = ids.cidrs.iter().map(|one| canonical_network(*one));
    let around = networks.filter(move |one| matches!(host, Host::Ip(ip) if one.contains(ip)));
    around.map(|one| one.bits())
}

/// The targets of `routes` that are not among `taken`.
fn without(routes: &Routes, taken: &[Routes]) -> Routes {
    let kinds = || taken.iter().flat_map(|routes| [&routes.proven, &routes.claimed]);
    let rest = |ids: &Identifiers| Identifiers {
        hosts: ids.hosts.iter().filter(|host| !kinds().any(|kind| names(kind, host))).cloned().collect(),
        cidrs: ids
            .cidrs
            .iter()
            .filter(|one| {
                let one = canonical_network(**one);
                !kinds().any(|kind| kind.cidrs.iter().any(|other| canonical_network(*other) == one))
            })
            .copied()
            .collect(),
        default_route: ids.default_route && !kinds().any(|kind| kind.default_route),
        unusable: Vec::new(),
    };
    Routes { proven: Arc::new(rest(&routes.proven)), claimed: Arc::new(rest(&routes.claimed)), any: false }
}

#[test]
fn histories_lead_where_the_model_does() {
    let few = std::env::var("HISTORIES").map_or(FEW, |number| number.parse().expect("HISTORIES is a number"));
    for seed in SEEDS.into_iter().chain(0..few) {
        let (mut random, mut history) = (StdRng::seed_from_u64(seed), History::default());
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                history.step(&mut random);
                history.check();
            }
        }));
        assert!(checked.is_ok(), "seed {seed}: {:#?}", history.steps);
        let tunnels: Vec<_> = history.known.drain(..).map(|known| known.agent).collect();
        assert!(history.registry.view().agents().is_empty(), "seed {seed}");
        assert!(tunnels.iter().all(|agent| Arc::strong_count(agent) == 1), "seed {seed}");
    }
}
