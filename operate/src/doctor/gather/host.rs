//! Facts of this host.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tunnel::transport::quic;

use super::limited;
use crate::doctor::facts::{Buffer, Known, Lookup};
use crate::report::Named;

/// The kernel's directory of network interfaces.
pub(super) const INTERFACES: &str = "/sys/class/net";

/// `IFF_UP` and `IFF_LOOPBACK` of netdevice(7).
const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;

pub(super) fn buffer() -> Known<Buffer> {
    let (requested, given) = quic::receive_buffer().map_err(|error| format!("no UDP socket: {error}"))?;
    Ok(Buffer { requested, given })
}

/// The largest MTU of the interfaces that are up and lead away from this host.
pub(super) fn interfaces(directory: &Path) -> Known<u32> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let entries =
        fs::read_dir(directory).map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let mtu = |interface: &Path| {
        let flags = u32::from_str_radix(read(&interface.join("flags")).trim_start_matches("0x"), 16).ok()?;
        let away = flags & UP != 0 && flags & LOOPBACK == 0;
        away.then(|| read(&interface.join("mtu")).parse().ok()).flatten()
    };
    let largest = entries.flatten().filter_map(|entry| mtu(&entry.path())).max();
    largest.ok_or_else(|| "no network interface but loopback is up".to_owned())
}

/// A server's name with its addresses.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) lookup: Lookup,
}

/// Resolves servers. A proxy resolves the names of those behind it.
pub(super) async fn look_up(servers: &[Named]) -> Vec<Found> {
    let direct = servers.iter().filter(|server| server.proxy.is_none());
    join_all(direct.map(|server| look_up_one(&server.host, server.port))).await
}

async fn look_up_one(host: &str, port: u16) -> Found {
    let looking = async {
        let addresses = lookup_host((host, port)).await;
        addresses.map(Iterator::collect::<Vec<_>>).map_err(|error| error.to_string())
    };
    let addresses = limited(looking).await;
    let shown = addresses.as_ref().map(|all| all.iter().map(|addr| addr.ip().to_string()).collect());
    let lookup = Lookup { host: host.to_owned(), found: shown.map_err(Clone::clone) };
    Found { name: host.to_owned(), addresses: addresses.unwrap_or_default(), lookup }
}
