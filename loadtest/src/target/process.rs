//! The target as a process: one that runs elsewhere, or this program again.

use std::net::{Ipv4Addr, SocketAddr};

use clap::Args;
use measuring_kit::Child;

use super::Addresses;
use crate::ours::{free_ports, this_program};

/// A target that runs already.
#[derive(Debug, Args)]
#[group(skip)]
pub(crate) struct TargetAt {
    /// Address of a `loadtest target`, as the agent reaches it. Without it one is started on this machine.
    #[arg(long, value_name = "ADDRESS", requires = "banner_target")]
    target: Option<SocketAddr>,
    /// Its second address, which speaks first.
    #[arg(long, value_name = "ADDRESS", requires = "target")]
    banner_target: Option<SocketAddr>,
}

impl TargetAt {
    /// The target of these flags, or a new one on this machine.
    pub(crate) async fn reach(&self) -> anyhow::Result<TargetProcess> {
        match (self.target, self.banner_target) {
            (Some(commands), Some(banner)) => {
                Ok(TargetProcess { child: None, addresses: Addresses { commands, banner } })
            }
            (_, _) => TargetProcess::start().await,
        }
    }
}

/// A target outside of this process; one that was started here ends with its value.
#[derive(Debug)]
pub(crate) struct TargetProcess {
    /// None for a target that runs elsewhere.
    pub(crate) child: Option<Child>,
    pub(crate) addresses: Addresses,
}

impl TargetProcess {
    /// Starts a process of its own for it, so that its CPU time and open files are its own.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let [commands, banner] = free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let flags = [
            "target".to_owned(),
            format!("--listen={commands}"),
            format!("--banner-listen={banner}"),
            "--until-stdin-closes".to_owned(),
        ];
        let mut child = Child::start("target", this_program(&flags)?, None)?;
        child.wait_for_port(commands.port()).await?;
        Ok(Self { child: Some(child), addresses: Addresses { commands, banner } })
    }
}
