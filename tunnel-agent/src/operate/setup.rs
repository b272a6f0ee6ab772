//! The settings that `doctor` checks.

use std::path::Path;

use tunnel_operate::report::{AgentSetup, Datagram, Named};
use tunnel_proto::ident::{Identifiers, UnknownKeys};

use crate::config::{Config, ServerAddr};
use crate::connect::tcp_alpn;

pub(super) fn setup(config: &Config, datagrams: Vec<Datagram>) -> AgentSetup {
    // The command may run in another directory. Fails for an empty path only.
    let shown = |path: &Path| std::path::absolute(path).unwrap_or_default().display().to_string();
    let files = config.tls_files.files();
    let server = |ServerAddr { host, port }: &ServerAddr| Named {
        host: host.clone(),
        port: *port,
        proxy: config.proxies.to(host, *port).map(ToString::to_string),
    };
    let kubeconfig = config.leases.as_ref().and_then(|leases| leases.kubeconfig.as_deref());
    // The flag was parsed at the start.
    let identifiers = Identifiers::parse(&config.identifiers, UnknownKeys::Refuse).unwrap_or_default();
    let alpn = tcp_alpn(&config.alpn, config.transport);
    AgentSetup {
        id: config.agent_id.clone(),
        servers: config.servers.iter().map(server).collect(),
        transport: config.transport.label().to_owned(),
        alpn: alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        ca_cert: shown(&files.authorities.1),
        agent_cert: shown(&files.cert.1),
        agent_key: shown(&files.key.1),
        token: config.token_path.as_deref().map(shown).unwrap_or_default(),
        kubeconfig: kubeconfig.map(shown).unwrap_or_default(),
        identifiers: config.identifiers.clone(),
        hosts: identifiers.hosts.iter().map(ToString::to_string).collect(),
        certificates: config.certificates.all(),
        datagrams,
    }
}
