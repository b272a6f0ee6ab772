//! The identities of agents, for commands.

use std::sync::Arc;

use tunnel_operate::report::{Contested, Identities, MOST_VIOLATIONS, Violation, Watched};

use crate::agents::{AgentTunnel, Trust, shown};

/// Most claims of an agent that are named.
const MOST_CLAIMS: usize = 16;

/// The identities of these tunnels.
pub(super) fn report(trust: &Trust, tunnels: &[Arc<AgentTunnel>]) -> Identities {
    let mut report = Identities {
        mode: trust.mode().label().to_owned(),
        routes_from: trust.source().label().to_owned(),
        agents: tunnels.len(),
        contested: trust.contested(|target, nodes, kept_by| Contested {
            target: target.to_owned(),
            nodes: nodes.to_vec(),
            kept_by: kept_by.map(str::to_owned),
        }),
        nodes: trust.known_nodes().map(|nodes| Watched {
            listed: nodes.listed,
            stale: nodes.stale_since.map(|since| since.elapsed().as_secs()),
            count: nodes.count,
        }),
        ..Identities::default()
    };
    for agent in tunnels {
        *report.kinds.entry(agent.identity.kind().to_owned()).or_default() += 1;
        let unproven = trust.unproven(&agent.identity, &agent.claims);
        if unproven.is_empty() {
            continue;
        }
        report.violating += 1;
        if report.violations.len() < MOST_VIOLATIONS {
            let (identity, claims) = (agent.identity.to_string(), shown(&unproven, MOST_CLAIMS));
            report.violations.push(Violation { agent: agent.id.clone(), identity, claims });
        }
    }
    report
}
