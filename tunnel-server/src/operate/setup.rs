//! The settings that `doctor` checks.

use std::net::SocketAddr;
use std::path::Path;

use tunnel_operate::report::ServerSetup;

use crate::cli::Mode;
use crate::config::Config;

/// All of them but the connected agents. `agents` is the address of the agents' listener.
pub(super) fn settings(config: &Config, agents: SocketAddr) -> ServerSetup {
    // The command may run in another directory. Fails for an empty path only.
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_default().display().to_string();
    ServerSetup {
        id: config.server_id.clone(),
        agents: agents.to_string(),
        unix: config.unix.as_ref().map(|place| shown(&place.path)).unwrap_or_default(),
        tcp: config.tcp.as_ref().map(|(bind, _)| bind.port),
        mode: config.mode.map(Mode::label).map(str::to_owned),
        strategies: config.strategies.iter().map(|strategy| strategy.label().to_owned()).collect(),
        anonymous: config.anonymous,
        certificates: Vec::new(),
        cluster_cert: shown(&config.cluster_cert),
        kubeconfig: config.kube.kubeconfig.as_deref().map(shown).unwrap_or_default(),
        connected: Vec::new(),
    }
}
