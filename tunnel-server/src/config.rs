//! Flags made into values. What would leave a door open is refused here, with
//! the flags that close it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tunnel::listen::bind_ip;
use tunnel::tls::{self, Identity, Secret};

use crate::cli::{Mode, ServerArgs};
use crate::route::Strategy;

/// Port of the TCP frontend when neither it nor a Unix socket is asked for.
const DEFAULT_SERVER_PORT: u16 = 8090;

/// Limit of a dial when `--backend-dial-timeout=0`, which means "no limit" in
/// Konnectivity; here every wait has one.
const LONGEST_DIAL: Duration = Duration::from_secs(30);

/// An address and a port to listen on; no address is every address.
pub type Bind = (Option<IpAddr>, u16);

/// Everything a server needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unix socket of the frontend, and whether to take an existing one over.
    pub unix: Option<(PathBuf, bool)>,
    /// TCP frontend.
    pub tcp: Option<(Bind, Arc<rustls::ServerConfig>)>,
    /// Only this protocol on the frontends.
    pub mode: Option<Mode>,
    /// Listener of agents, TCP and UDP.
    pub agents: Bind,
    /// How agents are authenticated.
    pub agent_tls: Arc<rustls::ServerConfig>,
    /// Lets a restarted server say on QUIC that its predecessor's tunnels are gone.
    pub reset_secret: Secret,
    /// Admin listener.
    pub admin: Bind,
    /// Health listener.
    pub health: Bind,
    /// This server's name.
    pub server_id: String,
    /// Routing.
    pub strategies: Vec<Strategy>,
    /// Limit of a dial.
    pub dial_limit: Duration,
    /// Limit of a drain.
    pub grace: Duration,
}

impl TryFrom<ServerArgs> for Config {
    type Error = anyhow::Error;

    fn try_from(args: ServerArgs) -> anyhow::Result<Self> {
        let unix = given(&args.uds_name).map(|path| (path, args.delete_existing_uds_file));
        let port = args.server_port.unwrap_or(if unix.is_some() { 0 } else { DEFAULT_SERVER_PORT });
        let tcp = if port == 0 { None } else { Some(tcp_frontend(&args, port)?) };
        ensure!(unix.is_some() || tcp.is_some(), "no frontend: give --uds-name, --server-port, or both");
        let (agent_tls, reset_secret) = agent_tls(&args)?;
        Ok(Self {
            agent_tls,
            reset_secret,
            agents: bind("--agent-bind-address", &args.agent_bind_address, args.agent_port)?,
            admin: bind("--admin-bind-address", &args.admin_bind_address, args.admin_port)?,
            health: bind("--health-bind-address", &args.health_bind_address, args.health_port)?,
            unix,
            tcp,
            mode: args.mode,
            server_id: match args.server_id {
                id if id.is_empty() => uuid::Uuid::new_v4().to_string(),
                id => id,
            },
            strategies: args.proxy_strategies,
            dial_limit: match args.backend_dial_timeout {
                Duration::ZERO => LONGEST_DIAL,
                limit => limit,
            },
            grace: args.graceful_shutdown_timeout,
        })
    }
}

fn given(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

fn bind(flag: &str, address: &str, port: u16) -> anyhow::Result<Bind> {
    Ok((bind_ip(address).map_err(anyhow::Error::msg).with_context(|| flag.to_owned())?, port))
}

/// Whoever may open the TCP frontend may reach every node, so there is none
/// without client certificates.
fn tcp_frontend(args: &ServerArgs, port: u16) -> anyhow::Result<(Bind, Arc<rustls::ServerConfig>)> {
    ensure!(
        given(&args.server_ca_cert).is_some(),
        "the frontend on TCP port {port} would let anybody reach every node: give --server-ca-cert, the CA \
         of the kube-apiserver's client certificate (or --server-port=0 and --uds-name)"
    );
    ensure!(
        given(&args.server_cert).is_some() && given(&args.server_key).is_some(),
        "the frontend on TCP port {port} needs --server-cert and --server-key"
    );
    let identity = Identity::load(&args.server_cert, &args.server_key)?;
    let tls = tls::frontend_listener(&identity, tls::load_roots(&args.server_ca_cert)?)?;
    Ok((bind("--server-bind-address", &args.server_bind_address, port)?, tls))
}

/// Whoever is taken for an agent gets the control plane's traffic, so there is
/// no listener without a way to authenticate agents.
fn agent_tls(args: &ServerArgs) -> anyhow::Result<(Arc<rustls::ServerConfig>, Secret)> {
    ensure!(
        given(&args.cluster_ca_cert).is_some(),
        "there is no way to authenticate agents: give --cluster-ca-cert, the CA of the agents' client \
         certificates"
    );
    ensure!(
        given(&args.cluster_cert).is_some() && given(&args.cluster_key).is_some(),
        "the listener of agents needs --cluster-cert and --cluster-key"
    );
    let identity = Identity::load(&args.cluster_cert, &args.cluster_key)?;
    let tls = tls::agent_listener(&identity, tls::load_roots(&args.cluster_ca_cert)?)?;
    Ok((tls, identity.derived_secret("quic stateless reset")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser as _;

    fn refused(flags: &[&str]) -> String {
        let cli = Cli::try_parse_from([&["tunnel-server"], flags].concat()).unwrap();
        format!("{:#}", Config::try_from(cli.server).unwrap_err())
    }

    #[test]
    fn a_server_that_would_leave_a_door_open_names_the_flags_that_close_it() {
        assert!(
            refused(&["--uds-name=/x", "--cluster-cert=c", "--cluster-key=k"]).contains("--cluster-ca-cert")
        );
        assert!(refused(&[]).contains("--server-ca-cert"));
        assert!(refused(&["--uds-name=/x", "--server-port=8090"]).contains("--server-ca-cert"));
        assert!(refused(&["--server-port=0"]).contains("--uds-name"));
        assert!(refused(&["--uds-name=/x", "--cluster-ca-cert=c"]).contains("--cluster-cert"));
        assert!(refused(&["--uds-name=/x", "--health-bind-address=nowhere"]).contains("--cluster-ca-cert"));
    }

    #[test]
    fn empty_values_mean_none() {
        assert!(refused(&["--uds-name=", "--server-port=0"]).contains("no frontend"));
        assert!(refused(&[]).contains("--server-ca-cert"));
    }

    #[test]
    fn go_style_values_parse() {
        let cli = Cli::try_parse_from([
            "tunnel-server",
            "--delete-existing-uds-file",
            "--mode=http-connect",
            "--proxy-strategies=destHost,defaultRoute,default",
            "--graceful-shutdown-timeout=1m30s",
        ])
        .unwrap();
        assert!(cli.server.delete_existing_uds_file);
        assert_eq!(cli.server.mode, Some(Mode::HttpConnect));
        assert_eq!(cli.server.proxy_strategies.len(), 3);
        assert_eq!(cli.server.graceful_shutdown_timeout, Duration::from_secs(90));
        let cli = Cli::try_parse_from(["tunnel-server", "--delete-existing-uds-file=false"]).unwrap();
        assert!(!cli.server.delete_existing_uds_file);
    }
}
