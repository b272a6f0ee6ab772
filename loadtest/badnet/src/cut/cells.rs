//! The cells of the matrix: what happens to the path, when, and to a tunnel on which link.

use measuring_kit::Link;

use crate::filter::{Filter, Loss, Protocol, Ways};

/// All UDP: an agent with --transport=auto is on h2 then.
const NO_UDP: Filter = Filter::Loss(Loss { protocol: Protocol::Udp, ways: Ways::Both, longer_than: 0 });

/// Longest packets on shrunken paths: PPPoE in a VPN, and less than QUIC's smallest full datagram, which has 1,228
/// bytes.
const NARROW: [usize; 2] = [1400, 1200];

/// An experiment with a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) what: What,
    pub(super) when: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Packets vanish for a while.
    Cut(Filter),
    /// The NAT gives the agent's connections other ports.
    Rebinding,
    /// The agent's host gets another address.
    Address,
}

/// The agent's state when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// It is about to start.
    Start,
    /// A tunnel on this link carries dials and a stream that is still.
    Idle(Link),
    /// The same beside a download and an upload.
    Bulk(Link),
}

/// Groups of cells, for scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blocked,
    OneWay,
    Shrunken,
    Forgetful,
    Moved,
}

impl Kind {
    pub(super) const ALL: [Self; 5] =
        [Self::Blocked, Self::OneWay, Self::Shrunken, Self::Forgetful, Self::Moved];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Blocked => "a blocked path",
            Self::OneWay => "a one-way path",
            Self::Shrunken => "a shrunken path",
            Self::Forgetful => "a router that forgets flows",
            Self::Moved => "a moved path",
        }
    }
}

/// Every cell in which something happens to the agent's way.
pub(super) fn all() -> Vec<Cell> {
    let ways = [Ways::Up, Ways::Down, Ways::Both];
    let blocked = [Protocol::Udp, Protocol::Tcp, Protocol::Any].map(|protocol| (protocol, 0));
    let narrow = NARROW.map(|size| (Protocol::Any, size));
    let losses = blocked.into_iter().chain(narrow).flat_map(|(protocol, longer_than)| {
        ways.map(|ways| What::Cut(Filter::Loss(Loss { protocol, ways, longer_than })))
    });
    let whats: Vec<_> = losses.chain([What::Cut(Filter::Flows), What::Rebinding, What::Address]).collect();
    let on = [Link::Quic, Link::H2];
    let whens = std::iter::once(When::Start).chain(on.map(When::Idle)).chain(on.map(When::Bulk));
    // Those with bulk are spread, since they take the processor's time.
    let cells = whats.iter().flat_map(|what| whens.clone().map(move |when| Cell { what: *what, when }));
    cells.filter(|cell| cell.matters()).collect()
}

impl Cell {
    pub(super) fn name(self) -> String {
        let what = match self.what {
            What::Cut(Filter::Loss(Loss { protocol, ways, longer_than })) => {
                let packets = match (protocol, longer_than) {
                    (Protocol::Udp, _) => "udp".to_owned(),
                    (Protocol::Tcp, _) => "tcp".to_owned(),
                    (Protocol::Any, 0) => "all".to_owned(),
                    (Protocol::Any, size) => size.to_string(),
                };
                format!("{packets}-{}", format!("{ways:?}").to_lowercase())
            }
            What::Cut(Filter::Flows) => "flows".to_owned(),
            What::Rebinding => "rebinding".to_owned(),
            What::Address => "address".to_owned(),
        };
        match self.when {
            When::Start => format!("{what}/start"),
            When::Idle(link) => format!("{what}/idle/{}", link.name()),
            When::Bulk(link) => format!("{what}/bulk/{}", link.name()),
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self.what {
            What::Cut(Filter::Flows) => Kind::Forgetful,
            What::Cut(Filter::Loss(Loss { longer_than: 1.., .. })) => Kind::Shrunken,
            What::Cut(Filter::Loss(Loss { ways: Ways::Both, .. })) => Kind::Blocked,
            What::Cut(Filter::Loss(Loss { ways: Ways::Up | Ways::Down, .. })) => Kind::OneWay,
            What::Rebinding | What::Address => Kind::Moved,
        }
    }

    /// The link of the tunnel to which it happens.
    pub(super) const fn on(self) -> Option<Link> {
        match self.when {
            When::Start => None,
            When::Idle(link) | When::Bulk(link) => Some(link),
        }
    }

    /// Whether it happens to the agent's tunnel, or before the first one.
    fn matters(self) -> bool {
        match (self.what, self.on()) {
            (What::Cut(Filter::Flows), Some(link)) => link == Link::Quic,
            (What::Cut(Filter::Loss(loss)), Some(link)) => match loss.protocol {
                Protocol::Udp => link == Link::Quic,
                Protocol::Tcp => link == Link::H2,
                Protocol::Any => true,
            },
            (What::Cut(_), None) => true,
            // An agent that starts knows no other path.
            (What::Rebinding | What::Address, on) => on.is_some(),
        }
    }

    /// Whether nothing gets through in a direction.
    pub(super) fn is_dark(self) -> bool {
        matches!(self.what, What::Cut(Filter::Loss(Loss { protocol: Protocol::Any, longer_than: 0, .. })))
    }

    /// Whether streams from before live on: on QUIC, unless a router has forgotten their flow.
    pub(super) fn keeps_streams(self) -> bool {
        self.on() == Some(Link::Quic) && self.what != What::Cut(Filter::Flows)
    }

    /// The filters before it.
    pub(super) fn before(self) -> &'static [Filter] {
        if self.on() == Some(Link::H2) { &[NO_UDP] } else { &[] }
    }

    /// The filters after it. UDP passes from a cut of TCP on, without which there would be no path.
    pub(super) fn after(self) -> &'static [Filter] {
        let of_tcp = matches!(self.what, What::Cut(Filter::Loss(Loss { protocol: Protocol::Tcp, .. })));
        if of_tcp { &[] } else { self.before() }
    }

    /// The filters meanwhile.
    pub(super) fn during(self) -> Vec<Filter> {
        let cut = match self.what {
            What::Cut(filter) => Some(filter),
            What::Rebinding | What::Address => None,
        };
        self.after().iter().copied().chain(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_matrix_is_direction_by_protocol_by_size_by_time() {
        let cells = all();
        let names: BTreeSet<String> = cells.iter().map(|cell| cell.name()).collect();
        assert_eq!(names.len(), cells.len());
        let count = |part: &str| names.iter().filter(|name| name.contains(part)).count();
        assert_eq!((count("/start"), count("/idle"), count("/bulk")), (16, 29, 29));
        assert_eq!((count("/quic"), count("/h2")), (30, 28));
        for name in ["tcp-up/start", "udp-both/idle/quic", "1400-down/bulk/h2", "address/bulk/quic"] {
            assert!(names.contains(name), "{name}");
        }
        for kind in Kind::ALL {
            assert!(cells.iter().any(|cell| cell.kind() == kind), "{kind:?}");
        }
    }

    #[test]
    fn a_path_is_left_unless_everything_is_blocked() {
        for cell in all().into_iter().filter(|cell| !cell.is_dark()) {
            let blocks = |protocol| {
                let blocked = |filter: &Filter| matches!(filter, Filter::Loss(Loss { protocol: lost, longer_than: 0, .. }) if *lost == protocol);
                cell.during().iter().any(blocked)
            };
            assert!(!blocks(Protocol::Any), "{}", cell.name());
            assert!(!blocks(Protocol::Udp) || !blocks(Protocol::Tcp), "{}", cell.name());
        }
    }
}
