//! A NAT that gives every port of one side another number.

/// Protocol number of ICMP.
const ICMP: u8 = 1;

/// ICMP's errors that a killed program and a router cause: destination unreachable, time exceeded.
const ERRORS: [u8; 2] = [3, 11];

/// Bytes of an ICMP error before the packet that it quotes.
const BEFORE_QUOTE: usize = 8;

/// Offsets in a packet.
struct Ports {
    /// Of the source port; the destination port follows.
    at: usize,
    checksum: usize,
    /// Whether this is UDP without a checksum.
    unchecked: bool,
}

/// Which port is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Source,
    Destination,
}

impl Field {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Flips bits of a port of an IPv4 packet with TCP or UDP, and mends the checksum; leaves other packets
/// alone. The same change undoes it. In an ICMP error, the quoted packet is translated, which went the other way.
pub(crate) fn translate(packet: &mut [u8], field: Field, change: u16) {
    if let Some(quoted) = quoted(packet) {
        // Its own checksum makes up for its port, so that the message's holds.
        return translate(quoted, field.other(), change);
    }
    let Some(Ports { at, checksum, unchecked }) = ports(packet) else { return };
    let at = at + if field == Field::Source { 0 } else { 2 };
    let old = word(packet, at);
    put(packet, at, old ^ change);
    if !unchecked {
        let sum = adjusted(word(packet, checksum), old, old ^ change);
        put(packet, checksum, sum);
    }
}

fn quoted(packet: &mut [u8]) -> Option<&mut [u8]> {
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    let at = usize::from(first & 0xf) * 4;
    let is_error = first >> 4 == 4 && protocol == ICMP && ERRORS.contains(packet.get(at)?);
    if is_error { packet.get_mut(at + BEFORE_QUOTE..) } else { None }
}

fn ports(packet: &[u8]) -> Option<Ports> {
    let (first, protocol) = (*packet.first()?, *packet.get(9)?);
    let at = usize::from(first & 0xf) * 4;
    // Fragments, of which only the first has ports, do not occur: both ends honour the MTU.
    if first >> 4 != 4 || packet.len() < at + 20 {
        let is_short_udp = first >> 4 == 4 && protocol == 17 && packet.len() >= at + 8;
        if !is_short_udp {
            return None;
        }
    }
    match protocol {
        6 => Some(Ports { at, checksum: at + 16, unchecked: false }),
        17 => Some(Ports { at, checksum: at + 6, unchecked: word(packet, at + 6) == 0 }),
        _ => None,
    }
}

/// The checksum after one word under it has changed (RFC 1624, equation 3).
fn adjusted(sum: u16, old: u16, new: u16) -> u16 {
    let wide = u32::from(!sum) + u32::from(!old) + u32::from(new);
    let folded = (wide & 0xffff) + (wide >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(u16::MAX)
}

fn word(packet: &[u8], at: usize) -> u16 {
    packet.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

fn put(packet: &mut [u8], at: usize, word: u16) {
    if let Some(two) = packet.get_mut(at..at + 2) {
        two.copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the pseudo header, which has no ports.
    fn sum(packet: &[u8]) -> u16 {
        let wide: u32 = packet[20..].chunks(2).map(|two| u32::from(word(two, 0))).sum();
        u16::try_from((wide & 0xffff) + (wide >> 16)).unwrap()
    }

    fn udp(source: u16, payload: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 32];
        (packet[0], packet[9]) = (0x45, 17);
        put(&mut packet, 20, source);
        put(&mut packet, 22, 443);
        packet[28..].copy_from_slice(&payload);
        let sum = !sum(&packet);
        put(&mut packet, 26, sum);
        packet
    }

    #[test]
    fn a_port_is_changed_with_its_checksum_and_changed_back() {
        for change in [1, 0x0100, 0x3fff] {
            let sent = udp(40_000, [1, 2, 3, 4]);
            let mut packet = sent.clone();
            assert_eq!(sum(&packet), 0xffff);
            translate(&mut packet, Field::Source, change);
            assert_eq!((word(&packet, 20), word(&packet, 22)), (40_000 ^ change, 443));
            assert_eq!(sum(&packet), 0xffff, "{change}");
            translate(&mut packet, Field::Source, change);
            assert_eq!(packet, sent);
        }
    }

    #[test]
    fn an_error_quotes_the_packet_as_its_sender_knows_it() {
        let mut error = vec![0; 28];
        (error[0], error[9], error[20], error[21]) = (0x45, ICMP, 3, 3);
        error.extend(udp(443, [1, 2, 3, 4]));
        put(&mut error, 28 + 22, 40_000);
        let checksum = !sum(&error);
        put(&mut error, 22, checksum);
        translate(&mut error, Field::Source, 0x0123);
        assert_eq!((word(&error, 28 + 20), word(&error, 28 + 22)), (443, 40_000 ^ 0x0123));
        assert_eq!(sum(&error), 0xffff);
    }

    #[test]
    fn what_has_no_ports_is_left_alone() {
        for mut packet in [vec![], vec![0x45; 19], vec![0x60; 60], [vec![0x45; 9], vec![1; 40]].concat()] {
            let sent = packet.clone();
            translate(&mut packet, Field::Destination, 7);
            assert_eq!(packet, sent);
        }
    }
}
