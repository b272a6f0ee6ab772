//! Packets that never arrive, though the line is good: a router that forgets flows, a protocol that is blocked in a
//! direction, a path that carries no large packets. No sockets and no clock.

use std::collections::HashMap;

/// Protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Packets of a flow in [`Filter::Flows`], those of both directions together.
const FLOW: u32 = 40;

/// Packets that vanish, without a word to their sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Those of each UDP flow after the first forty.
    Flows,
    Loss(Loss),
}

/// Packets of a protocol, in a direction, that are longer than so many bytes, their IP header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) protocol: Protocol,
    pub(crate) ways: Ways,
    pub(crate) longer_than: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
    /// These and all others.
    Any,
}

/// Directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ways {
    /// From the agent to the server.
    Up,
    /// From the server to the agent.
    Down,
    Both,
}

/// The direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the server's side to the agent's.
    Down,
    Up,
}

/// Filters, and the memory of [`Filter::Flows`].
#[derive(Debug, Default)]
pub(crate) struct Filtering {
    filters: Vec<Filter>,
    /// Packets of each UDP flow, by the ports of its agent and server.
    flows: HashMap<[u16; 2], u32>,
}

impl Filtering {
    /// Filters from now on; without filters, every packet passes.
    pub(crate) fn set(&mut self, filters: &[Filter]) {
        self.filters = filters.to_vec();
        self.flows.clear();
    }

    /// Whether a packet arrives.
    pub(crate) fn passes(&mut self, packet: &[u8], way: Way) -> bool {
        let Self { filters, flows } = self;
        filters.iter().all(|filter| match filter {
            Filter::Loss(loss) => !loss.hits(packet, way),
            Filter::Flows => {
                let Some([source, destination]) = ports(packet) else { return true };
                let flow = match way {
                    Way::Up => [source, destination],
                    Way::Down => [destination, source],
                };
                let count = flows.entry(flow).or_default();
                *count += 1;
                *count <= FLOW
            }
        })
    }
}

impl Loss {
    fn hits(self, packet: &[u8], way: Way) -> bool {
        let of = match self.protocol {
            Protocol::Udp => protocol(packet) == Some(UDP),
            Protocol::Tcp => protocol(packet) == Some(TCP),
            Protocol::Any => true,
        };
        let there = match self.ways {
            Ways::Up => way == Way::Up,
            Ways::Down => way == Way::Down,
            Ways::Both => true,
        };
        of && there && packet.len() > self.longer_than
    }
}

/// The protocol of an IPv4 packet.
fn protocol(packet: &[u8]) -> Option<u8> {
    if packet.first()? >> 4 == 4 { packet.get(9).copied() } else { None }
}

/// The ports of an IPv4 packet with UDP.
fn ports(packet: &[u8]) -> Option<[u16; 2]> {
    if protocol(packet)? != UDP {
        return None;
    }
    let at = usize::from(packet.first()? & 0xf) * 4;
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
        filtering.set(&[Filter::Flows]);
        let (up, down) = (packet(UDP, [5000, 8091], 100), packet(UDP, [8091, 5000], 100));
        for _ in 0..FLOW / 2 {
            assert!(filtering.passes(&up, Way::Up) && filtering.passes(&down, Way::Down));
        }
        assert!(!filtering.passes(&up, Way::Up) && !filtering.passes(&down, Way::Down));
        assert!(filtering.passes(&packet(UDP, [5001, 8091], 100), Way::Up), "another flow");
        assert!(filtering.passes(&packet(TCP, [5000, 8091], 100), Way::Up), "tcp");
        filtering.set(&[]);
        assert!(filtering.passes(&up, Way::Up));
    }

    #[test]
    fn each_loss_takes_its_packets() {
        let (udp, tcp) = (packet(UDP, [1, 2], 1200), packet(TCP, [1, 2], 1201));
        let loss = |protocol, ways, longer_than| Filter::Loss(Loss { protocol, ways, longer_than });
        // The packets that pass: UDP up and down, TCP up and down.
        for (filters, passing) in [
            (vec![], [true; 4]),
            (vec![loss(Protocol::Udp, Ways::Up, 0)], [false, true, true, true]),
            (vec![loss(Protocol::Udp, Ways::Down, 0)], [true, false, true, true]),
            (vec![loss(Protocol::Tcp, Ways::Both, 0)], [true, true, false, false]),
            (vec![loss(Protocol::Any, Ways::Up, 0)], [false, true, false, true]),
            (vec![loss(Protocol::Any, Ways::Both, 1200)], [true, true, false, false]),
            (vec![loss(Protocol::Any, Ways::Both, 1199)], [false; 4]),
            (
                vec![loss(Protocol::Udp, Ways::Both, 0), loss(Protocol::Any, Ways::Up, 1200)],
                [false, false, false, true],
            ),
        ] {
            let mut filtering = Filtering::default();
            filtering.set(&filters);
            let mut passed =
                [&udp, &tcp].into_iter().flat_map(|packet| [Way::Up, Way::Down].map(|way| (packet, way)));
            let passed: [bool; 4] = std::array::from_fn(|_| {
                let (packet, way) = passed.next().unwrap();
                filtering.passes(packet, way)
            });
            assert_eq!(passed, passing, "{filters:?}");
        }
    }
}
