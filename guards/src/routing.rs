//! Which agent gets a dial, with a thousand agents registered.

use std::hint::black_box;
use std::sync::Arc;

use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::target::Target;
use tunnel_server::agents::{AgentTunnel, Registration, Registry};
use tunnel_server::route::{Router, Strategy};

/// Agents that are registered.
const AGENTS: usize = 1000;

/// Targets of each kind, dialled in turn. A map's random seed decides how long the look-up of one name takes: of one
/// alone, up to 6 % more instructions in every tenth process.
const TARGETS: usize = 100;

/// A registry full of agents, and targets that each strategy decides.
#[derive(Debug)]
pub struct Routing {
    registry: Registry,
    router: Router,
    hosts: Vec<Target>,
    networks: Vec<Target>,
    others: Vec<Target>,
    turn: usize,
    newcomer: Arc<AgentTunnel>,
    _registrations: Vec<Registration>,
}

impl Routing {
    /// A view of the agents is there already.
    pub fn warm() -> Self {
        let registry = Registry::default();
        let registrations = (0..AGENTS).map(|i| registry.register(agent(i))).collect();
        let targets = |text: fn(usize) -> String| (0..TARGETS).map(|i| text(i).parse().unwrap()).collect();
        let mut routing = Self {
            registry,
            router: Router::new(vec![Strategy::DestHost, Strategy::DestCidr, Strategy::Default]),
            hosts: targets(|i| format!("10.0.1.{i}:10250")),
            networks: targets(|i| format!("10.131.{i}.9:443")),
            others: targets(|i| format!("webhook-{i}.ns.svc:443")),
            turn: 0,
            newcomer: agent(AGENTS),
            _registrations: registrations,
        };
        routing.by_host();
        routing
    }

    /// The first strategy decides: one agent has the address.
    pub fn by_host(&mut self) {
        let turn = self.turn();
        self.pick(&self.hosts[turn]);
    }

    /// The second one does: one agent has the network.
    pub fn by_network(&mut self) {
        let turn = self.turn();
        self.pick(&self.networks[turn]);
    }

    /// The last one does: any agent will do.
    pub fn by_default(&mut self) {
        let turn = self.turn();
        self.pick(&self.others[turn]);
    }

    /// One more agent comes and leaves, and a dial is routed meanwhile.
    pub fn by_host_of_a_newcomer(&mut self) {
        let registration = self.registry.register(Arc::clone(&self.newcomer));
        self.by_host();
        drop(registration);
    }

    fn turn(&mut self) -> usize {
        self.turn = (self.turn + 1) % TARGETS;
        self.turn
    }

    fn pick(&self, target: &Target) {
        let view = self.registry.view();
        assert!(black_box(self.router.pick(&view, black_box(target), None)).is_some());
    }
}

fn agent(i: usize) -> Arc<AgentTunnel> {
    let (high, low) = (i / 250, i % 250);
    let identifiers = format!("host=node-{i}&ipv4=10.0.{high}.{low}&cidr=10.{}.{low}.0/24", 128 + high);
    let identifiers = Identifiers::parse(&identifiers, UnknownKeys::Refuse).unwrap();
    Arc::new(AgentTunnel::detached(format!("agent-{i}"), identifiers))
}
