//! The Lease of this server, and the address in it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use tunnel_kube::leases::{Publication, leads_somewhere};
use tunnel_program::args::labels;

use crate::cli::LeaseArgs;

/// Refuses bad labels also where no Lease is kept, as Konnectivity does.
pub(super) fn publication(
    args: LeaseArgs,
    server_id: &str,
    agent_port: u16,
) -> anyhow::Result<Option<Publication>> {
    let labels = labels(&args.lease_label).map_err(anyhow::Error::msg).context("--lease-label")?;
    let address = advertised(&args.advertise_address, agent_port)?;
    if !args.enable_lease_controller {
        ensure!(
            address.is_none(),
            "--advertise-address stands in this server's Lease, and there is none: give \
             --enable-lease-controller, or leave --advertise-address out"
        );
        return Ok(None);
    }
    ensure!(!args.lease_namespace.is_empty(), "--enable-lease-controller needs --lease-namespace");
    let server_id = server_id.to_owned();
    Ok(Some(Publication { server_id, namespace: args.lease_namespace, labels, address }))
}

/// Reads `v4`, `v4:port`, `v6`, `[v6]` and `[v6]:port`; port 0 stands for the one that is bound.
fn advertised(text: &str, agent_port: u16) -> anyhow::Result<Option<SocketAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(ip), _) => SocketAddr::new(ip, agent_port),
        (Err(_), Ok(address)) if address.port() == 0 => {
            bail!("--advertise-address={text}: port 0 is no port")
        }
        (Err(_), Ok(address)) => address,
        (Err(_), Err(_)) => bail!(
            "--advertise-address={text}: give the IP address at which agents reach this server, with or \
             without a port, such as 10.0.0.7, 10.0.0.7:8132 or [fd00::7]:8132"
        ),
    };
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    ensure!(leads_somewhere(address.ip()), "--advertise-address={text}: this is not the address of one host");
    Ok(Some(address))
}
