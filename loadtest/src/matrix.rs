//! Every scenario on every frontend and link, against a server and an agent
//! that are started here, with certificates made for the occasion.

pub(crate) mod children;
pub(crate) mod tunnel;

use std::sync::Arc;

use measuring_kit::Certificates;
use tempfile::TempDir;

use crate::bench::Bench;
use crate::cli::{FrontendName, Link, MatrixArgs};
use crate::report::Report;
use crate::target::Addresses;
use children::Child;
use tunnel::{HOST, Programs, Tunnel};

pub(crate) async fn run(args: &MatrixArgs) -> anyhow::Result<Report> {
    // Dropped last: the children's logs and certificates are in it.
    let dir = TempDir::new()?;
    let certificates = Certificates::write(dir.path(), HOST)?;
    let (_target, addresses) = Child::target().await?;
    let programs = Programs {
        server: args.server_bin.clone(),
        agent: args.agent_bin.clone(),
        server_flags: args.server_arg.clone(),
        agent_flags: args.agent_arg.clone(),
    };
    let mut report = Report::new(&args.plan);
    for link in &args.link {
        for frontend in &args.frontend {
            // New ones each time, so that no column inherits memory of another.
            let tunnel = Tunnel::start(&programs, *link, &certificates, dir.path(), link.name()).await?;
            measure(&tunnel, args, *frontend, *link, addresses, &mut report).await?;
        }
    }
    Ok(report)
}

async fn measure(
    tunnel: &Tunnel,
    args: &MatrixArgs,
    name: FrontendName,
    link: Link,
    target: Addresses,
    report: &mut Report,
) -> anyhow::Result<()> {
    let bench = Bench::new(tunnel.frontend(name)?, target, tunnel.processes(), args.plan.clone())
        .labelled(&format!("{} {}", name.name(), link.name()));
    let bench = Arc::new(bench);
    let mut told = false;
    for scenario in args.plan.scenarios() {
        let mut outcome = bench.run(scenario).await;
        if let Some(failure) = outcome.failures.last_mut()
            && !std::mem::replace(&mut told, true)
        {
            *failure = format!("{failure}\n{}", tunnel.last_words());
        }
        report.add(name.name(), link.name(), scenario, outcome);
    }
    Ok(())
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
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectUds => "connect-uds",
            Self::GrpcUds => "grpc-uds",
            Self::ConnectTcp => "connect-tcp",
            Self::GrpcTcp => "grpc-tcp",
        }
    }
}
