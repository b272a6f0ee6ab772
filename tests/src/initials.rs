//! First packets of QUIC handshakes, from which nothing follows.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::net::UdpSocket;
use tunnel::transport::quic::{Datagrams, Dialer};

use crate::task::spawn;
use crate::wait::within;

/// First packets of `count` handshakes of an agent, to be sent by anybody.
pub async fn initials(tls: Arc<ClientConfig>, count: usize) -> Vec<Vec<u8>> {
    let catcher = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let to = catcher.local_addr().unwrap();
    let dialer = Dialer::new((Ipv4Addr::LOCALHOST, 0).into(), Datagrams::of_this_host()).unwrap();
    let dials: Vec<_> = (0..count)
        .map(|_| {
            let (dialer, tls) = (dialer.clone(), Arc::clone(&tls));
            spawn(async move { drop(Box::pin(dialer.connect(to, "127.0.0.1", tls)).await) })
        })
        .collect();
    let (mut found, mut seen) = (Vec::new(), HashSet::new());
    while found.len() < count {
        let mut datagram = vec![0; 65_536];
        let length = within("an Initial", catcher.recv(&mut datagram)).await.unwrap();
        datagram.truncate(length);
        // Behind flags and version: the length of the connection id, and the id (RFC 9000 section 17.2).
        let id = datagram[6..6 + usize::from(datagram[5])].to_vec();
        if seen.insert(id) {
            found.push(datagram);
        }
    }
    drop(dials);
    found
}
