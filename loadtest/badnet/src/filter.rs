//! Packets that never arrive, though the line is good: a router that forgets flows, a direction that loses all
//! UDP, a path that carries no large packets. No sockets and no clock.

use std::collections::HashMap;

use clap::ValueEnum;

/// Protocol number of UDP.
const UDP: u8 = 17;

/// Packets of a flow in [`Filter::Flows`], those of both directions together.
const FLOW: u32 = 40;

/// Longest packet in [`Filter::Narrow`]: QUIC's smallest full datagram has 1,228 bytes.
const NARROW: usize = 1200;

/// The packets that vanish, without a word to their sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Filter {
    /// Those of each UDP flow after the first forty.
    Flows,
    /// UDP from the agent to the server.
    Up,
    /// UDP from the server to the agent.
    Down,
    /// Packets of more than 1,200 bytes.
    Narrow,
}

/// The direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the server's side to the agent's.
    Down,
    Up,
}

/// A filter and its memory.
#[derive(Debug, Default)]
pub(crate) struct Filtering {
    filter: Option<Filter>,
    /// Packets of each UDP flow, by the ports of its agent and server.
    flows: HashMap<[u16; 2], u32>,
}

impl Filtering {
    /// Filters from now on; `None` lets every packet pass.
    pub(crate) fn set(&mut self, filter: Option<Filter>) {
        self.filter = filter;
        self.flows.clear();
    }

    /// Whether a packet arrives.
    pub(crate) fn passes(&mut self, packet: &[u8], way: Way) -> bool {
        let Some(filter) = self.filter else { return true };
        match filter {
            Filter::Narrow => packet.len() <= NARROW,
            Filter::Up => way == Way::Down || ports(packet).is_none(),
            Filter::Down => way == Way::Up || ports(packet).is_none(),
            Filter::Flows => {
                let Some([source, destination]) = ports(packet) else { return true };
                let flow = match way {
                    Way::Up => [source, destination],
                    Way::Down => [destination, source],
                };
                let count = self.flows.entry(flow).or_default();
                *count += 1;
                *count <= FLOW
            }
        }
    }
}

/// The ports of an IPv4 packet with UDP.
fn ports(packet: &[u8]) -> Option<[u16; 2]> {
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    if first >> 4 != 4 || protocol != UDP {
        return None;
    }
    let at = usize::from(first & 0xf) * 4;
    let [a, b, c, d] = *packet.get(at..)?.first_chunk()?;
    Some([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, ports: [u16; 2], len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        (packet[0], packet[9]) = (0x45, protocol);
        packet[20..22].copy_from_slice(&ports[0].to_be_bytes());
        packet[22..24].copy_from_slice(&ports[1].to_be_bytes());
        packet
    }

    #[test]
    fn a_flow_ends_after_forty_packets_and_others_do_not() {
        let mut filtering = Filtering::default();
        filtering.set(Some(Filter::Flows));
        let (up, down) = (packet(UDP, [5000, 8091], 100), packet(UDP, [8091, 5000], 100));
        for _ in 0..FLOW / 2 {
            assert!(filtering.passes(&up, Way::Up) && filtering.passes(&down, Way::Down));
        }
        assert!(!filtering.passes(&up, Way::Up) && !filtering.passes(&down, Way::Down));
        assert!(filtering.passes(&packet(UDP, [5001, 8091], 100), Way::Up), "another flow");
        assert!(filtering.passes(&packet(6, [5000, 8091], 100), Way::Up), "tcp");
        filtering.set(None);
        assert!(filtering.passes(&up, Way::Up));
    }

    #[test]
    fn each_filter_takes_its_packets() {
        let (udp, tcp) = (packet(UDP, [1, 2], 1200), packet(6, [1, 2], 1201));
        for (filter, udp_up, udp_down, tcp_passes) in [
            (Filter::Up, false, true, true),
            (Filter::Down, true, false, true),
            (Filter::Narrow, true, true, false),
        ] {
            let mut filtering = Filtering::default();
            filtering.set(Some(filter));
            assert_eq!(filtering.passes(&udp, Way::Up), udp_up, "{filter:?}");
            assert_eq!(filtering.passes(&udp, Way::Down), udp_down, "{filter:?}");
            assert_eq!(filtering.passes(&tcp, Way::Up), tcp_passes, "{filter:?}");
        }
    }
}
