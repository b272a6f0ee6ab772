//! Gauges of agents that are read at each scrape.

use std::collections::HashSet;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Registry, Result};
use tunnel_program::metering::{Described, Maker};

use super::konnectivity::PREFIX;
use crate::agents;
use crate::route::Strategy;

/// Gauges that are read from the registry of agents at each scrape, so that dials and
/// registrations need not keep them.
#[derive(Debug)]
pub struct Backends {
    agents: agents::Registry,
    strategies: Vec<Strategy>,
    all: IntGauge,
    by_strategy: IntGaugeVec,
}

impl Backends {
    /// Registers the gauges, one for each of `strategies`.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry, agents: agents::Registry, strategies: &[Strategy]) -> Result<()> {
        let (all, by_strategy) = make(&mut Maker::new(&Registry::new(), PREFIX))?;
        make_twins(&mut Maker::new(registry, "tunnel_server"), agents.clone())?;
        registry.register(Box::new(Self { agents, strategies: strategies.to_vec(), all, by_strategy }))
    }

    /// The description of the gauges.
    pub(super) fn described() -> Vec<Described> {
        let registry = Registry::new();
        let mut maker = Maker::new(&registry, PREFIX);
        // Cannot fail: in a registry of its own, no name is taken.
        let _ = make(&mut maker);
        let mut ours = Maker::new(&registry, "tunnel_server");
        let _ = make_twins(&mut ours, agents::Registry::default());
        [maker.into_made(), ours.into_made()].concat()
    }
}

fn make(make: &mut Maker<'_>) -> Result<(IntGauge, IntGaugeVec)> {
    let all = make.gauge(
        "ready_backend_connections",
        "Number of konnectivity agent connected to the proxy server. DEPRECATED, please use ready_backends",
    )?;
    let by_strategy = make.gauges(
        "ready_backends",
        "Number of konnectivity agent connected to the proxy server",
        &["proxy_strategy"],
    )?;
    Ok((all, by_strategy))
}

fn make_twins(make: &mut Maker<'_>, agents: agents::Registry) -> Result<()> {
    make.read_gauge(
        "twin_tunnels",
        "Tunnels beside a newer one of the same agent id and identity from another host: two hosts use one id. \
         Each gets the dials of the targets that only it names.",
        move || agents.twins() as u64,
    )
}

impl Collector for Backends {
    fn desc(&self) -> Vec<&Desc> {
        [self.all.desc(), self.by_strategy.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let agents = self.agents.view().agents().to_vec();
        self.all.set(count(agents.len()));
        for strategy in &self.strategies {
            let usable = agents.iter().filter(|agent| strategy.may_choose(&agent.routes()));
            let usable: HashSet<&str> = usable.map(|agent| agent.id.as_str()).collect();
            self.by_strategy.with_label_values(&[strategy.label()]).set(count(usable.len()));
        }
        [self.all.collect(), self.by_strategy.collect()].concat()
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
