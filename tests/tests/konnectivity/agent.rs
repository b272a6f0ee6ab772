//! An agent of ours, on stock servers whose every packet is scripted.

mod dials;
mod ends;
mod packets;
mod servers;

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_tests::stock::{AgentCall, Manners, StockServer};
use tunnel_tests::{Agent, AgentSpec, panics, wait_for, wait_within};

use crate::Certificates;

const NODE: Ipv4Addr = tunnel_tests::node(Link::Konnectivity);

/// An agent of ours on a stock server.
struct World {
    agent: Agent,
    server: StockServer,
    call: AgentCall,
    certificates: Certificates,
    began: Instant,
}

fn spec() -> AgentSpec {
    AgentSpec::new("agent-ours", Link::Konnectivity, NODE)
}

impl World {
    async fn new() -> Self {
        Self::with(Manners::of("server-a")).await
    }

    async fn with(manners: Manners) -> Self {
        panics::record();
        let certificates = Certificates::make();
        let mut server = StockServer::start(&certificates.pki, manners).await;
        let began = Instant::now();
        let agent = Agent::start(&certificates.pki, &[server.addr], &spec());
        let call = server.agent().await;
        Self { agent, server, call, certificates, began }
    }

    /// Waits until the agent has so many connections, those being dialled included.
    async fn wait_for_connections(&self, limit: Duration, wanted: i64) {
        wait_within(limit, &format!("{wanted} connections"), async || match self.agent.connections().await {
            open if open == wanted => Ok(()),
            open => Err(format!("{open} connections")),
        })
        .await;
    }

    /// The end of a test.
    async fn finish(self) {
        self.agent.wait_until_idle().await;
        // One in half a minute, which only a busy machine needs for a test.
        let most = self.began.elapsed().as_secs() / 30;
        assert!(u64::from(self.call.pings()) <= most, "{} pings, not {most}", self.call.pings());
        panics::assert_none();
    }
}

async fn wait_for_servers(agent: &Agent, wanted: i64) {
    wait_for(&format!("{wanted} servers at {}", agent.id), async || {
        let metrics = agent.metrics().await;
        match metrics.value("tunnel_agent_servers_connected") == wanted {
            true => Ok(()),
            false => Err(metrics.show("tunnel_agent")),
        }
    })
    .await;
}
