//! Every scenario on every frontend and link, against a server and an agent
//! that are started here, with certificates made for the occasion.

pub(crate) mod certificates;
pub(crate) mod children;

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use tempfile::TempDir;
use tunnel_client::{Endpoint, Options, Protocol, tls_config};

use crate::bench::{Bench, Frontend};
use crate::cli::{FrontendName, Link, MatrixArgs};
use crate::process::Process;
use crate::report::Report;
use crate::target::Addresses;
use certificates::Certificates;
use children::{Child, Ports};

pub(crate) async fn run(args: &MatrixArgs) -> anyhow::Result<Report> {
    // Dropped last: the children's logs and certificates are in it.
    let dir = TempDir::new()?;
    let certificates = Certificates::write(dir.path())?;
    let (_target, addresses) = Child::target().await?;
    let mut report = Report::new(&args.plan);
    for link in &args.link {
        for frontend in &args.frontend {
            // New ones each time, so that no column inherits memory of another.
            let tunnel = Tunnel::start(args, *link, &certificates, dir.path()).await?;
            tunnel.measure(args, *frontend, *link, addresses, &mut report).await?;
        }
    }
    Ok(report)
}

/// A server and an agent on one link.
struct Tunnel {
    server: Child,
    agent: Child,
    uds: std::path::PathBuf,
    ports: Ports,
    tls: ClientConfig,
}

impl Tunnel {
    async fn start(
        args: &MatrixArgs,
        link: Link,
        certificates: &Certificates,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let ports = Ports::free()?;
        let uds = dir.join(format!("{}.socket", link.name()));
        let server_flags = [server_flags(certificates, &ports, &uds), args.server_arg.clone()].concat();
        let agent_flags = [agent_flags(certificates, &ports, link), args.agent_arg.clone()].concat();
        let log = |name: &str| dir.join(format!("{name}-{}.log", link.name()));
        let mut server = Child::start("server", &args.server_bin, &server_flags, &log("server"))?;
        server.wait_for_port(ports.server_health).await?;
        let mut agent = Child::start("agent", &args.agent_bin, &agent_flags, &log("agent"))?;
        agent.wait_until_ready(ports.agent_health).await?;
        server.wait_until_ready(ports.server_health).await?;
        let tls = tls_config(&certificates.ca, &certificates.client.certificate, &certificates.client.key)?;
        Ok(Self { server, agent, uds, ports, tls })
    }

    async fn measure(
        &self,
        args: &MatrixArgs,
        name: FrontendName,
        link: Link,
        target: Addresses,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let watched = [("server", &self.server), ("agent", &self.agent)]
            .map(|(name, child)| Process { name: name.into(), pid: child.id() });
        let bench = Bench::new(self.frontend(name)?, target, watched.to_vec(), args.plan.clone())
            .labelled(&format!("{} {}", name.name(), link.name()));
        let bench = Arc::new(bench);
        let mut told = false;
        for scenario in args.plan.scenarios() {
            let mut outcome = bench.run(scenario).await;
            if let Some(failure) = outcome.failures.last_mut()
                && !std::mem::replace(&mut told, true)
            {
                *failure = format!("{failure}\n{}\n{}", self.server.last_words(), self.agent.last_words());
            }
            report.add(name.name(), link.name(), scenario, outcome);
        }
        Ok(())
    }

    fn frontend(&self, name: FrontendName) -> anyhow::Result<Frontend> {
        let protocol = match name {
            FrontendName::ConnectUds | FrontendName::ConnectTcp => Protocol::Connect,
            FrontendName::GrpcUds | FrontendName::GrpcTcp => Protocol::Grpc,
        };
        let endpoint = match name {
            FrontendName::ConnectUds | FrontendName::GrpcUds => Endpoint::unix(self.uds.clone()),
            FrontendName::ConnectTcp | FrontendName::GrpcTcp => {
                let address = ([127, 0, 0, 1], self.ports.frontend).into();
                Endpoint::tls(address, "localhost".try_into()?, self.tls.clone())
            }
        };
        Ok(Frontend { name: name.name().into(), protocol, endpoint, options: Options::default() })
    }
}

impl Link {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
        }
    }
}

impl FrontendName {
    fn name(self) -> &'static str {
        match self {
            Self::ConnectUds => "connect-uds",
            Self::GrpcUds => "grpc-uds",
            Self::ConnectTcp => "connect-tcp",
            Self::GrpcTcp => "grpc-tcp",
        }
    }
}

pub(crate) fn server_flags(certificates: &Certificates, ports: &Ports, uds: &Path) -> Vec<String> {
    let (ca, server) = (certificates.ca.display(), &certificates.server);
    let (certificate, key) = (server.certificate.display(), server.key.display());
    let mut flags = vec![
        format!("--uds-name={}", uds.display()),
        "--delete-existing-uds-file=true".into(),
        "--proxy-strategies=default".into(),
        "--server-id=loadtest".into(),
    ];
    for name in ["server", "cluster"] {
        flags.push(format!("--{name}-cert={certificate}"));
        flags.push(format!("--{name}-key={key}"));
        flags.push(format!("--{name}-ca-cert={ca}"));
    }
    let listeners = [
        ("server", ports.frontend),
        ("agent", ports.link),
        ("admin", ports.server_admin),
        ("health", ports.server_health),
    ];
    for (name, port) in listeners {
        flags.push(format!("--{name}-bind-address=127.0.0.1"));
        flags.push(format!("--{name}-port={port}"));
    }
    flags
}

fn agent_flags(certificates: &Certificates, ports: &Ports, link: Link) -> Vec<String> {
    vec![
        format!("--ca-cert={}", certificates.ca.display()),
        format!("--agent-cert={}", certificates.agent.certificate.display()),
        format!("--agent-key={}", certificates.agent.key.display()),
        "--proxy-server-host=127.0.0.1".into(),
        format!("--proxy-server-port={}", ports.link),
        format!("--transport={}", link.name()),
        "--agent-id=loadtest".into(),
        "--health-server-host=127.0.0.1".into(),
        format!("--health-server-port={}", ports.agent_health),
        "--admin-bind-address=127.0.0.1".into(),
        format!("--admin-server-port={}", ports.agent_admin),
    ]
}
