//! `tunnel-server install kubeadm` and `tunnel-server uninstall kubeadm`.
//!
//! An installation goes from the cluster to the kube-apiserver: rights and agents, the server
//! as a static pod, and with `--activate` the kube-apiserver, which is the last because a
//! webhook that fails closed could otherwise block the agents' own pods. Removal goes the
//! other way.
//!
//! * `site`: the node and cluster as they are found, and checks;
//! * `manifests`, `apiserver`, `clusterconfig`, `kubeconfig`: how things have to be;
//! * `servers`: the servers of several control plane nodes;
//! * `konnectivity`: the move from it, and back;
//! * `plan`: the difference, shown and then made;
//! * `ready`, `activation`, `verify`: waits, the switch of the kube-apiserver with its way back,
//!   and the proof.
//!
//! A step may be interrupted anywhere and run again: files are replaced by a rename, objects
//! by server-side apply, and a marker file stands while the kube-apiserver is being switched.

#![warn(missing_docs)]
#![expect(clippy::large_futures, reason = "one command per process, at a person's pace")]

mod activation;
mod apiserver;
mod cluster;
mod clusterconfig;
mod diff;
mod fault;
mod host;
mod install;
mod konnectivity;
mod kubeconfig;
mod manifests;
mod plan;
mod ready;
mod say;
mod servers;
mod site;
mod uninstall;
mod verify;
mod yaml;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tunnel_program::args::go_duration;

use fault::Fault;

const INSTALL_EXAMPLES: &str = "Examples, as root on each control plane node:
  tunnel-server install kubeadm --dry-run                    # all changes, and nothing else
  tunnel-server install kubeadm --image-repository=REGISTRY  # the server and the agents
  tunnel-server install kubeadm --activate                   # and the kube-apiserver; keeps earlier choices
  tunnel-server install kubeadm --before-join                # on a node that will be a further control plane

Exit codes: 0 done, 2 failed. A failed or interrupted run may be repeated.";

const UNINSTALL_EXAMPLES: &str = "Examples, as root on each control plane node:
  tunnel-server uninstall kubeadm --dry-run
  tunnel-server uninstall kubeadm

Exit codes: 0 done, 2 failed. A failed or interrupted run may be repeated.";

/// A place to install to.
#[derive(Debug, Clone, Subcommand)]
pub enum Install {
    /// This control plane node, which kubeadm made, and the cluster's agents.
    #[command(after_help = INSTALL_EXAMPLES)]
    Kubeadm(KubeadmArgs),
}

/// A place to remove from.
#[derive(Debug, Clone, Subcommand)]
pub enum Uninstall {
    /// This control plane node, which kubeadm made; with the last one, the cluster's agents.
    #[command(after_help = UNINSTALL_EXAMPLES)]
    Kubeadm(CommonArgs),
}

/// Flags of both commands.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Show all changes and make none.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask.
    #[arg(short, long)]
    yes: bool,

    /// Kubeconfig of an administrator.
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/admin.conf")]
    kubeconfig: PathBuf,

    /// Limit of each wait: for agents, and for the kube-apiserver's restart, which takes one to
    /// two minutes.
    #[arg(long, value_name = "DURATION", value_parser = go_duration, default_value = "5m")]
    timeout: Duration,
}

/// Flags of `install kubeadm`.
#[derive(Debug, Clone, Args)]
pub struct KubeadmArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Also let the kube-apiserver use the tunnel, now and after kubeadm upgrade. It is put back
    /// if it does not start or logs and exec do not work.
    #[arg(long)]
    activate: bool,

    /// On a node that `kubeadm join --control-plane` will join to a cluster with the tunnel: write the
    /// one file without which its kube-apiserver does not start, and nothing else. Needs no cluster.
    #[arg(long, conflicts_with_all = ["activate", "image_repository", "address", "agent_port"])]
    before_join: bool,

    /// Registry and path in front of the images' names, tunnel-server and tunnel-agent. Without
    /// the flag that of an earlier run, or localhost, for images that were imported.
    #[arg(long, value_name = "NAME")]
    image_repository: Option<String>,

    /// Tag of the images.
    #[arg(long, value_name = "TAG", default_value = env!("CARGO_PKG_VERSION"))]
    image_tag: String,

    /// Address or name by which nodes reach this node; without the flag that of an earlier run,
    /// or the kube-apiserver's. Has to be in the kube-apiserver's certificate.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,

    /// Port for agents, TCP and UDP. Without the flag that of an earlier run, or 8132.
    #[arg(long, value_name = "PORT")]
    agent_port: Option<u16>,
}

impl Install {
    /// Runs the command to its end. Blocks; needs no runtime.
    pub fn run(&self) -> ExitCode {
        let Self::Kubeadm(args) = self;
        on_runtime(install::run(args))
    }
}

impl Uninstall {
    /// Runs the command to its end. Blocks; needs no runtime.
    pub fn run(&self) -> ExitCode {
        let Self::Kubeadm(args) = self;
        on_runtime(uninstall::run(args))
    }
}

fn on_runtime(command: impl Future<Output = Result<(), Fault>>) -> ExitCode {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = built
        .map_err(|error| Fault::new(format!("cannot start: {error}"), "run it again"))
        .and_then(|runtime| runtime.block_on(Box::pin(command)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            say::say(&format!("FAILED   {fault}"));
            ExitCode::from(2)
        }
    }
}
