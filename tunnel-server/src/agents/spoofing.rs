//! Fifty nodes, and beside them one agent after the other that claims what is not its own. Every
//! registration, view and choice is the product's.

use std::sync::Arc;

use prometheus::Registry as Metering;
use tokio::time::Instant;
use tunnel_kube::nodes::Node;
use tunnel_proto::ident::{Identifiers, UnknownKeys};

use super::*;
use crate::metrics::Metrics;
use crate::route::{Router, Strategy};

const NODES: usize = 50;

/// Choices of each target.
const PICKS: usize = 6;

/// A claim of the agent of one node about the node of another.
#[derive(Debug, Clone, Copy)]
enum Claim {
    Own,
    Another,
    Wider,
    HostName,
    Mapped,
    DefaultRoute,
    Service,
    /// The other agent's id and claims.
    Duplicate,
}

const CLAIMS: [Claim; 8] = [
    Claim::Own,
    Claim::Another,
    Claim::Wider,
    Claim::HostName,
    Claim::Mapped,
    Claim::DefaultRoute,
    Claim::Service,
    Claim::Duplicate,
];

fn of_node(at: usize) -> String {
    format!("host=n{at}&ipv4=10.0.0.{at}&cidr=10.244.{at}.0/24")
}

impl Claim {
    fn identifiers(self, own: usize, victim: usize) -> String {
        let of_victim = match self {
            Self::Own => String::new(),
            Self::Another => format!("&ipv4=10.0.0.{victim}&ipv4=10.244.{victim}.7"),
            Self::Wider => "&cidr=10.0.0.0/8&cidr=0.0.0.0/0&cidr=::/0".to_owned(),
            Self::HostName => format!("&host=n{victim}&host=n{victim}."),
            Self::Mapped => {
                format!(
                    "&ipv6=::ffff:10.0.0.{victim}&cidr=::ffff:10.244.{victim}.0/120&cidr=::ffff:0.0.0.0/96"
                )
            }
            Self::DefaultRoute => "&default-route=true".to_owned(),
            Self::Service => "&ipv4=10.96.0.10".to_owned(),
            Self::Duplicate => format!("&{}", of_node(victim)),
        };
        of_node(own) + &of_victim
    }
}

struct World {
    trust: Trust,
    registry: Registry,
    router: Router,
    honest: Vec<Arc<AgentTunnel>>,
    _registrations: Vec<Registration>,
    picks: usize,
}

impl World {
    fn new(mode: Mode, source: Source) -> Self {
        let rules =
            Rules { mode, source, template: None, map: IdentityMap::default(), default_routes: Vec::new() };
        let trust = Trust::new(rules, Metrics::register(&Metering::new()).unwrap());
        let nodes = (0..NODES).map(|at| Node {
            name: format!("n{at}"),
            addresses: vec![format!("10.0.0.{at}")],
            pod_cidrs: vec![format!("10.244.{at}.0/24")],
        });
        trust.take_nodes(nodes.collect::<Vec<_>>().iter(), true);
        let registry = Registry::default();
        let strategies = vec![Strategy::DestHost, Strategy::DestCidr, Strategy::DefaultRoute];
        let mut world = Self {
            trust,
            registry,
            router: Router::new(strategies),
            honest: Vec::new(),
            _registrations: Vec::new(),
            picks: 0,
        };
        for at in 0..NODES {
            let agent = world.agent(&format!("agent-{at}"), at, &of_node(at));
            world._registrations.push(world.registry.register(Arc::clone(&agent)));
            world.honest.push(agent);
        }
        world
    }

    fn agent(&self, id: &str, node: usize, claims: &str) -> Arc<AgentTunnel> {
        let identity = Identity::Node(format!("n{node}"));
        let claims = Identifiers::parse(claims, UnknownKeys::Refuse).unwrap();
        let agent = AgentTunnel { identity, ..AgentTunnel::detached(id, claims) };
        agent.route_anew(&self.trust);
        Arc::new(agent)
    }

    /// The nodes whose agents get dials of a target.
    fn picked(&mut self, target: &str) -> Vec<String> {
        let (view, target) = (self.registry.view(), target.parse().unwrap());
        let picked = (0..PICKS).filter_map(|_| self.router.pick(&view, &target, None));
        let mut identities: Vec<_> = picked.map(|agent| agent.identity.to_string()).collect();
        self.picks += PICKS;
        identities.sort();
        identities.dedup();
        identities
    }
}

fn targets(victim: usize) -> [String; 6] {
    [
        format!("10.0.0.{victim}:10250"),
        format!("[::ffff:10.0.0.{victim}]:10250"),
        format!("n{victim}:10250"),
        format!("N{victim}.:10250"),
        format!("10.244.{victim}.7:80"),
        format!("[::ffff:10.244.{victim}.7]:80"),
    ]
}

#[tokio::test]
async fn no_claim_takes_a_target_from_the_node_that_proves_it() {
    let mut picks = 0;
    for (mode, source) in
        [(Mode::Strict, Source::Claims), (Mode::Audit, Source::Claims), (Mode::Strict, Source::Nodes)]
    {
        let mut world = World::new(mode, source);
        for victim in 0..NODES {
            let (owner, rogue) = (Arc::clone(&world.honest[victim]), (victim + 1) % NODES);
            for claim in CLAIMS {
                let is_duplicate = matches!(claim, Claim::Duplicate);
                let id = if is_duplicate { owner.id.clone() } else { "rogue".to_owned() };
                let agent = world.agent(&id, rogue, &claim.identifiers(rogue, victim));
                let _registration = world.registry.register(agent);
                let case = format!("{mode:?} {source:?} {claim:?} of n{rogue} about n{victim}");
                for target in targets(victim) {
                    assert_eq!(world.picked(&target), [format!("node:n{victim}")], "{case}: {target}");
                }
                assert_eq!(world.picked(&targets(rogue)[0]), [format!("node:n{rogue}")], "{case}");
                let service = world.picked("10.96.0.10:443");
                let is_claimed = mode == Mode::Audit
                    && matches!(claim, Claim::Service | Claim::Wider | Claim::DefaultRoute | Claim::Mapped);
                assert_eq!(service.len(), usize::from(is_claimed), "{case}: {service:?}");
            }
            // While the owner is silent, its targets wait for it.
            owner.set_suspect(Some(Instant::now()));
            world.registry.changed(&owner);
            let agent = world.agent("rogue", rogue, &Claim::Another.identifiers(rogue, victim));
            let _registration = world.registry.register(agent);
            assert_eq!(world.picked(&targets(victim)[0]), [""; 0], "{mode:?} n{victim} is silent");
            owner.set_suspect(None);
            world.registry.changed(&owner);
        }
        picks += world.picks;
    }
    assert!(picks > 20_000, "{picks}");
}

#[tokio::test]
async fn in_legacy_mode_the_exploit_works_as_in_konnectivity() {
    let mut world = World::new(Mode::Legacy, Source::Claims);
    let rogue = world.agent("rogue", 1, &Claim::Another.identifiers(1, 0));
    let _registration = world.registry.register(rogue);
    let seen: std::collections::BTreeSet<_> = (0..50).flat_map(|_| world.picked("10.0.0.0:10250")).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
}
