//! The forms of an address besides the usual one: those of `inet_aton`, which resolvers take for
//! addresses, and IPv6 addresses that carry an IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tunnel_proto::target::{Host, Target};

/// Reads `HOST:PORT` in any form that some resolver takes: decimal, octal and hexadecimal parts,
/// fewer than four of them, a trailing dot, a zone. The target has the usual form.
///
/// # Errors
/// With the reason of [`Target`]'s own reader.
pub fn read(text: &str) -> Result<Target, String> {
    let error = match text.parse::<Target>() {
        Ok(target) => return Ok(target),
        Err(error) => error.to_string(),
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or(error.clone())?,
        None => text.rsplit_once(':').ok_or(error.clone())?,
    };
    let host = host.split_once('%').map_or(host, |(host, _zone)| host);
    let ip = match host.parse::<IpAddr>() {
        Ok(ip) => Some(ip),
        Err(_) => number(host.strip_suffix('.').unwrap_or(host)).map(IpAddr::V4),
    };
    // The reader of targets has the rules of ports.
    let port = format!("x:{port}").parse::<Target>().map(|target| target.port());
    ip.zip(port.ok()).map(|(ip, port)| Target::new(Host::Ip(ip), port)).ok_or(error)
}

/// An IPv4 address as `inet_aton` of POSIX reads it: one to four parts, each decimal, octal with a
/// leading 0 or hexadecimal with a leading 0x, the last one filling the rest of the address.
pub fn number(text: &str) -> Option<Ipv4Addr> {
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (mut bits, mut parts, mut rest) = (0_u32, 0, text);
    loop {
        let (part, more) = rest.split_once('.').map_or((rest, None), |(part, more)| (part, Some(more)));
        let value = part_of(part)?;
        parts += 1;
        let Some(more) = more else {
            let room = u64::from(u32::MAX) >> (8 * (parts - 1));
            return (value <= room).then(|| Ipv4Addr::from_bits(bits | u32::try_from(value).unwrap_or(0)));
        };
        if parts == 4 || value > 255 {
            return None;
        }
        bits |= u32::try_from(value).unwrap_or(0) << (32 - 8 * parts);
        rest = more;
    }
}

fn part_of(part: &str) -> Option<u64> {
    let (digits, radix) = match part.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&part[2..], 16),
        [b'0', _, ..] => (&part[1..], 8),
        _ => (part, 10),
    };
    // Otherwise a sign would be taken.
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

/// The address that a connection goes to: an IPv4-mapped one is the IPv4 address (RFC 4291 section
/// 2.5.5.2).
pub(crate) fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

/// IPv4 addresses that a translator or a tunnel might make of an IPv6 address.
pub(crate) fn carried(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = ip.to_bits();
    // The 32 bits that begin at bit `at`, counted from the left.
    let from = |at: u32| u32::try_from((bits << at) >> 96).unwrap_or(0);
    // Over the reserved octet in bits 64 to 71 (RFC 6052 section 2.2).
    let around = |at: u32| {
        let high = 64 - at;
        u32::try_from(((bits << at) >> (128 - high)) << (32 - high) | ((bits << 72) >> (96 + high)))
            .unwrap_or(0)
    };
    let (high96, prefix) = (bits >> 32, ip.segments());
    let found = match prefix {
        // IPv4-compatible (RFC 4291 section 2.5.5.1); `::` and `::1` carry nothing.
        [0, 0, 0, 0, 0, 0, _, _] => [Some(from(96)).filter(|v4| v4 >> 24 != 0), None, None, None],
        // IPv4-translated (RFC 2765 section 2.1).
        [0, 0, 0, 0, 0xffff, 0, _, _] => [Some(from(96)), None, None, None],
        // NAT64's well-known prefix (RFC 6052 section 2.1).
        _ if high96 == 0x0064_ff9b << 64 => [Some(from(96)), None, None, None],
        // NAT64's prefixes for local use (RFC 8215), of any length; what the other lengths would
        // read there is often 0.0.0.0/8, which no translator sends to.
        [0x64, 0xff9b, 1, ..] => {
            [around(48), around(56), from(72), from(96)].map(|v4| Some(v4).filter(|v4| v4 >> 24 != 0))
        }
        // 6to4 (RFC 3056 section 2).
        [0x2002, ..] => [Some(from(16)), None, None, None],
        // Teredo, whose client address is inverted (RFC 4380 section 4).
        [0x2001, 0, ..] => [Some(!from(96)), None, None, None],
        // ISATAP (RFC 5214 section 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => [Some(from(96)), None, None, None],
        _ => [None; 4],
    };
    found.into_iter().flatten().map(Ipv4Addr::from_bits)
}
