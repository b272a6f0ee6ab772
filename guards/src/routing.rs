//! Which agent gets a dial, with a thousand agents registered.

use std::hint::black_box;
use std::sync::Arc;

use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::target::Target;
use tunnel_server::agents::{AgentTunnel, Registration, Registry};
use tunnel_server::route::{Router, Strategy};

/// Agents that are registered.
const AGENTS: usize = 1000;

/// A registry full of agents, and targets that each strategy decides.
#[derive(Debug)]
pub struct Routing {
    registry: Registry,
    router: Router,
    host: Target,
    network: Target,
    other: Target,
    newcomer: Arc<AgentTunnel>,
    _registrations: Vec<Registration>,
}

impl Routing {
    /// A view of the agents is there already.
    pub fn warm() -> Self {
        let registry = Registry::default();
        let registrations = (0..AGENTS).map(|i| registry.register(agent(i))).collect();
        let mut routing = Self {
            registry,
            router: Router::new(vec![Strategy::DestHost, Strategy::DestCidr, Strategy::Default]),
            host: "10.0.1.7:10250".parse().unwrap(),
            network: "10.131.7.9:443".parse().unwrap(),
            other: "webhook.ns.svc:443".parse().unwrap(),
            newcomer: agent(AGENTS),
            _registrations: registrations,
        };
        routing.by_host();
        routing
    }

    /// The first strategy decides: one agent has the address.
    pub fn by_host(&mut self) {
        self.pick(&self.host);
    }

    /// The second one does: one agent has the network.
    pub fn by_network(&mut self) {
        self.pick(&self.network);
    }

    /// The last one does: any agent will do.
    pub fn by_default(&mut self) {
        self.pick(&self.other);
    }

    /// One more agent comes and leaves, and a dial is routed meanwhile.
    pub fn by_host_of_a_newcomer(&mut self) {
        let registration = self.registry.register(Arc::clone(&self.newcomer));
        self.pick(&self.host);
        drop(registration);
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
