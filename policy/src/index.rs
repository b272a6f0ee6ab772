//! Finds the first rule about a destination without going through all of them.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::rule::{Asked, Pattern, Rule};

/// Where the entries of `to` are, by their kind; each list in the order of the rules.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    v4: Vec<Entry<u32>>,
    v6: Vec<Entry<u128>>,
    /// Names, and suffixes with their leading dot.
    names: HashMap<Box<str>, Vec<u32>>,
    /// Rules for all destinations.
    all: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry<N> {
    first: N,
    last: N,
    rule: u32,
}

impl<N: PartialOrd> Entry<N> {
    fn contains(&self, number: N) -> bool {
        self.first <= number && number <= self.last
    }
}

impl Index {
    pub(crate) fn of(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (rule, number) in rules.iter().zip(0..) {
            if rule.to.is_empty() {
                index.all.push(number);
            }
            for pattern in &rule.to {
                match pattern {
                    Pattern::Network(span) => match span.v4() {
                        Some((first, last)) => index.v4.push(Entry { first, last, rule: number }),
                        None => {
                            let (first, last) = span.numbers();
                            index.v6.push(Entry { first, last, rule: number });
                        }
                    },
                    Pattern::Name(name) | Pattern::Suffix(name) => {
                        index.names.entry(name.clone()).or_default().push(number);
                    }
                }
            }
        }
        index
    }

    /// The first of the rules that `decides` takes, of those that are about the destination.
    pub(crate) fn first(&self, asked: &Asked<'_>, decides: impl Fn(u32) -> bool) -> Option<u32> {
        let by_address = match asked.address {
            Some(IpAddr::V4(ip)) => earliest(&self.v4, ip.to_bits(), &decides),
            Some(IpAddr::V6(ip)) => earliest(&self.v6, ip.to_bits(), &decides),
            None => None,
        };
        let by_name = asked.name.filter(|_| !self.names.is_empty()).and_then(|name| {
            let suffixes = name.match_indices('.').map(|(at, _)| &name[at..]);
            let known = std::iter::once(name).chain(suffixes).filter_map(|key| self.names.get(key));
            known.filter_map(|rules| rules.iter().copied().find(|rule| decides(*rule))).min()
        });
        let by_default = self.all.iter().copied().find(|rule| decides(*rule));
        [by_address, by_name, by_default].into_iter().flatten().min()
    }
}

fn earliest<N: PartialOrd + Copy>(
    entries: &[Entry<N>],
    number: N,
    decides: impl Fn(u32) -> bool,
) -> Option<u32> {
    entries.iter().find(|entry| entry.contains(number) && decides(entry.rule)).map(|entry| entry.rule)
}
