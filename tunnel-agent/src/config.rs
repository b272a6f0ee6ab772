//! The configuration, made of the flags. Nothing behind it parses a flag's text.

#[cfg(test)]
mod manifests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tracing::warn;
use tunnel::liveness::Patience;
use tunnel::tls::{Dialling, Kept, Renewed, TlsError, TlsFiles};
use tunnel::transport::quic::Datagrams;
use tunnel_operate::certificate::Files;
use tunnel_policy::Gate;
use tunnel_program::args::{Bind, List, bind, existing, given};
use tunnel_program::renewal::PERIOD;
use tunnel_proto::ident::{Identifiers, UnknownKeys};

use crate::cli::{Cli, CountArgs, SyncArgs, Transport};
use crate::endpoint::host_and_port;
use crate::proxy::Proxies;

pub use crate::endpoint::ServerAddr;

/// The configuration of an agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// Servers to keep a tunnel to, each once.
    pub servers: Vec<ServerAddr>,
    /// The agent's certificate, if it has one, and the CAs of servers.
    pub tls: Renewed<Dialling>,
    /// The files of [`Config::tls`].
    pub tls_files: Kept<Dialling>,
    /// Time between two looks at the files of flags. No flag sets it.
    pub renewal: Duration,
    /// ALPN names to offer in front of our own.
    pub alpn: Vec<String>,
    /// File with the token for servers, read again for every tunnel.
    pub token_path: Option<PathBuf>,
    /// Proxies between the agent and servers, for TCP only.
    pub proxies: Proxies,
    /// Links to try.
    pub transport: Transport,
    /// The agent's id.
    pub agent_id: String,
    /// The agent's identifiers, in the form of the wire.
    pub identifiers: String,
    /// Health listener.
    pub health: Bind,
    /// Admin listener.
    pub admin: Bind,
    /// Unix socket for commands; none if empty.
    pub admin_socket: PathBuf,
    /// The certificates of all flags.
    pub certificates: Files,
    /// Whether `/debug/pprof/` answers on the admin listener.
    pub profiling: bool,
    /// When servers are dialled.
    pub sync: Sync,
    /// Largest datagrams to try on QUIC.
    pub datagrams: Datagrams,
    /// Bytes that all stalled connections together may hold; 0 is no limit.
    pub stalled_memory: u64,
    /// Time without an acknowledgement after which a target is given up; `None` is the kernel's.
    pub ack_timeout: Option<Duration>,
    /// Time limits for silent servers. No flag changes them.
    pub patience: Patience,
    /// The Leases that servers are counted by; none if only servers tell the count.
    pub leases: Option<LeaseCount>,
    /// Which count of servers holds.
    pub count_source: CountSource,
    /// The policy of destinations.
    pub policy: Arc<Gate>,
    /// Its file; none if it is built in.
    pub policy_file: Option<PathBuf>,
    /// Time limit of a drain.
    pub grace: Duration,
}

/// When servers are dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sync {
    /// Time between searches, and the first bound of the back-off.
    pub interval: Duration,
    /// Largest bound of the back-off, at least `interval`.
    pub cap: Duration,
    /// Search also while there is a tunnel to as many servers as there should be.
    pub forever: bool,
    /// Time without a server after which the agent is unhealthy; `None` is never.
    pub unhealthy_after: Option<Duration>,
}

/// The Leases of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseCount {
    /// Their namespace.
    pub namespace: String,
    /// Their label selector, in Kubernetes' syntax.
    pub selector: String,
    /// Credentials for the kube-apiserver; the pod's service account if `None`.
    pub kubeconfig: Option<PathBuf>,
}

/// Which count of servers holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CountSource {
    /// The Leases' if they are counted, otherwise the servers' own.
    #[default]
    Default,
    /// The larger one.
    Max,
}

impl FromStr for CountSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "default" => Ok(Self::Default),
            "max" => Ok(Self::Max),
            _ => Err("use default or max".to_owned()),
        }
    }
}

impl TryFrom<Cli> for Config {
    type Error = anyhow::Error;

    fn try_from(cli: Cli) -> anyhow::Result<Self> {
        ensure!(given(&cli.ca_cert).is_some(), "--ca-cert is needed to check the tunnel servers");
        let profiling = cli.shared.profiling()?;
        let token_path = existing("--service-account-token-path", &cli.service_account_token_path)?;
        let tls_files = tls(&cli, token_path.is_some())?;
        check_identifiers(&cli.agent_identifiers)?;
        let certificates =
            Files::read([("--ca-cert", cli.ca_cert.as_path()), ("--agent-cert", &cli.agent_cert)]);
        Ok(Self {
            servers: servers(&cli.proxy_server_host, cli.proxy_server_port)?,
            tls: tls_files.now().clone(),
            tls_files,
            renewal: PERIOD,
            alpn: alpn(cli.alpn_proto)?,
            token_path,
            proxies: Proxies::from_variables(|name| std::env::var(name).ok())?,
            transport: cli.transport,
            agent_id: match cli.agent_id {
                id if id.is_empty() => uuid::Uuid::new_v4().to_string(),
                id => id,
            },
            identifiers: cli.agent_identifiers,
            health: bind("--health-server-host", &cli.health_server_host, cli.health_server_port)?,
            admin: bind("--admin-bind-address", &cli.admin_bind_address, cli.admin_server_port)?,
            admin_socket: cli.admin_socket,
            certificates,
            profiling,
            sync: sync(&cli.sync)?,
            datagrams: cli.shared.datagrams(),
            stalled_memory: cli.max_stalled_memory,
            ack_timeout: cli.shared.ack_timeout(),
            patience: Patience::default(),
            count_source: cli.count.server_count_source,
            leases: lease_count(cli.count)?,
            policy_file: given(&cli.policy_file),
            policy: Gate::of_file(given(&cli.policy_file).as_deref()).context("--policy-file")?,
            grace: cli.graceful_shutdown_timeout,
        })
    }
}

/// The client certificate, which an agent with a token does not need, and the CAs of servers.
fn tls(cli: &Cli, has_token: bool) -> anyhow::Result<Kept<Dialling>> {
    match (given(&cli.agent_cert), given(&cli.agent_key)) {
        (Some(_), Some(_)) => {}
        (Some(_), None) => bail!("--agent-cert needs --agent-key"),
        (None, Some(_)) => bail!("--agent-key needs --agent-cert"),
        (None, None) if has_token => {}
        (None, None) => bail!(
            "nothing tells the tunnel servers who this agent is: give --agent-cert and --agent-key, or \
             --service-account-token-path, or all of them"
        ),
    }
    let files = TlsFiles {
        cert: ("agent-cert", cli.agent_cert.clone()),
        key: ("agent-key", cli.agent_key.clone()),
        authorities: ("ca-cert", cli.ca_cert.clone()),
        revoked: ("crl-file", cli.crl_file.clone()),
    };
    Ok(Kept::read(files, |identity, servers| match servers {
        Some(servers) => Dialling::new(identity, servers),
        // Refused at the start.
        None => Err(TlsError::Config("no authority".to_owned())),
    })?)
}

fn check_identifiers(text: &str) -> anyhow::Result<()> {
    let identifiers = Identifiers::parse(text, UnknownKeys::Refuse).context("--agent-identifiers")?;
    if !identifiers.unusable.is_empty() {
        warn!(unusable = ?identifiers.unusable, "--agent-identifiers: these name nothing that is ever dialled");
    }
    Ok(())
}

/// Extra ALPN names. TLS has one byte for the length of each (RFC 7301 section 3.1).
fn alpn(lists: Vec<List>) -> anyhow::Result<Vec<String>> {
    let names = List::flatten(lists);
    if let Some(long) = names.iter().find(|name| name.len() > usize::from(u8::MAX)) {
        bail!("--alpn-proto: {long:?} is longer than {} bytes", u8::MAX);
    }
    Ok(names)
}

fn sync(args: &SyncArgs) -> anyhow::Result<Sync> {
    ensure!(
        args.sync_interval <= args.sync_interval_cap,
        "--sync-interval must not be larger than --sync-interval-cap"
    );
    Ok(Sync {
        interval: args.sync_interval,
        cap: args.sync_interval_cap,
        forever: args.sync_forever,
        unhealthy_after: (!args.unhealthy_after.is_zero()).then_some(args.unhealthy_after),
    })
}

fn lease_count(args: CountArgs) -> anyhow::Result<Option<LeaseCount>> {
    let kubeconfig = existing("--kubeconfig", &args.kubeconfig)?;
    if !args.count_server_leases {
        return Ok(None);
    }
    ensure!(!args.lease_namespace.is_empty(), "--count-server-leases needs --lease-namespace");
    Ok(Some(LeaseCount { namespace: args.lease_namespace, selector: args.lease_label_selector, kubeconfig }))
}

/// Splits `a,b:9000,[::1]:9000,::1` into hosts with ports.
fn servers(list: &str, default_port: u16) -> anyhow::Result<Vec<ServerAddr>> {
    let mut servers = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (host, port) = host_and_port(entry);
        let port = port.map_or(Ok(default_port), str::parse);
        let port = port.with_context(|| format!("--proxy-server-host: port of {entry:?}"))?;
        ensure!(!host.is_empty(), "--proxy-server-host: {entry:?} is no host");
        ensure!(port != 0, "--proxy-server-port must be greater than 0, also within --proxy-server-host");
        let server = ServerAddr { host: host.to_owned(), port };
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    ensure!(!servers.is_empty(), "--proxy-server-host names no server");
    Ok(servers)
}
