//! Texts of strangers and of operators: requests, targets, identifiers, tokens, certificates,
//! policies, flags.

use std::net::IpAddr;
use std::str;

use tunnel_kube::review::Claims;
use tunnel_operate::certificate as x509;
use tunnel_policy::{Policy, Subject, spelling};
use tunnel_program::args;
use tunnel_proto::connect::{self, Head, HeadError, MAX_HEAD};
use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::network::Network;
use tunnel_proto::refusal::{Refusal, printable};
use tunnel_proto::target::{Host, Target};

/// Longest error text, in bytes: it is one line of a log.
const MAX_ERROR: usize = 4096;

/// A person reads the text in a log or an answer.
fn is_readable(text: &str) {
    assert!(text.len() <= MAX_ERROR, "an error of {} bytes", text.len());
    assert!(!text.contains(char::is_control), "an error with control characters: {text:?}");
}

/// The head of a CONNECT request.
pub(crate) fn connect(input: &[u8]) {
    match connect::parse(input) {
        Ok(Head::Complete { target, length }) => {
            assert!((1..=input.len().min(MAX_HEAD)).contains(&length), "a head of {length} bytes");
            let head = Head::Complete { target: target.clone(), length };
            assert_eq!(connect::parse(&input[..length]), Ok(head), "the bytes behind the head count");
            assert_eq!(connect::parse(&input[..length - 1]), Ok(Head::Partial), "ends a byte earlier");
            same_target(&target);
        }
        Ok(Head::Partial) => assert!(input.len() < MAX_HEAD, "waits for more than a head has"),
        Err(error) => {
            is_readable(&error.to_string());
            let answer = connect::refusal(error.status(), &error.to_string());
            let lines = answer.windows(2).filter(|pair| pair == b"\r\n").count();
            assert!(answer.is_ascii() && lines >= 2, "{answer:?}");
            if !matches!(error, HeadError::TooLarge) {
                let longer = [input, b"\r\n\r\n"].concat();
                assert!(connect::parse(&longer).is_err(), "more bytes make a refused request valid");
            }
        }
    }
}

fn same_target(target: &Target) {
    assert_eq!(target.to_string().parse().as_ref(), Ok(target));
    assert_eq!(Host::parse(&target.host().to_string()).as_ref(), Some(target.host()));
}

/// An agent's identifiers, a target, a network, and an error of a Go program.
pub(crate) fn identifiers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let read = Identifiers::parse(&text, UnknownKeys::Ignore);
    if let Ok(strict) = Identifiers::parse(&text, UnknownKeys::Refuse) {
        assert_eq!(read.as_ref(), Ok(&strict), "a text without unknown keys");
    }
    for host in read.iter().flat_map(|read| &read.hosts) {
        assert_eq!(Host::parse(&host.to_string()).as_ref(), Some(host));
    }
    for network in read.iter().flat_map(|read| &read.cidrs) {
        assert_eq!(network.to_string().parse().as_ref(), Ok(network));
        assert!(network.contains(network.first()));
    }
    match text.parse::<Target>() {
        Ok(target) => same_target(&target),
        Err(error) => is_readable(&error.to_string()),
    }
    if let Ok(network) = text.parse::<Network>() {
        assert_eq!(Network::of(network.first(), network.bits()), Some(network));
    }
    let refusal = Refusal::from_go(text.clone().into_owned());
    assert_eq!(refusal.text, printable(text.clone().into_owned()));
    assert!(!refusal.text.contains(char::is_control), "{:?}", refusal.text);
}

/// A service account token, before the API is asked.
pub(crate) fn token(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    match Claims::read(text) {
        Ok(claims) => claims.audiences().iter().for_each(|audience| is_readable(audience)),
        Err(error) => is_readable(&error.to_string()),
    }
}

/// A peer's certificate, whose signature is not verified yet.
pub(crate) fn certificate(input: &[u8]) {
    let ends = x509::ends(input);
    let validity = x509::validity(input);
    assert_eq!(ends, validity.map(|range| *range.end()), "two ends of one certificate");
    if let Err(error) = x509::describe(input) {
        is_readable(&error);
    }
}

/// A policy, and a destination behind its last line.
pub(crate) fn policy(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (file, destination) = text.rsplit_once('\n').unwrap_or((&text, "169.254.169.254:80"));
    let policies = [Some(Policy::default()), file.parse().ok()];
    for policy in policies.iter().flatten() {
        for target in ["127.0.0.1:80", "[::1]:80", "169.254.169.254:80", destination] {
            let Ok(target) = target.parse::<Target>() else { continue };
            decides_alike(policy, &target);
        }
    }
    if let Ok(target) = spelling::read(destination) {
        same_target(&target);
    }
}

/// Every spelling of an address gets one verdict, in the target and as the result of a look-up.
fn decides_alike(policy: &Policy, target: &Target) {
    let decide = |target: &Target, address| policy.decide(Subject::default(), target, address).allow;
    let &Host::Ip(ip) = target.host() else { return };
    let mapped = match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
    };
    let text = std::net::SocketAddr::new(mapped, target.port()).to_string();
    let Ok(other) = text.parse::<Target>() else { panic!("{text} is no target") };
    let verdict = decide(target, None);
    for (spelled, address) in [(&other, None), (target, Some(ip)), (&other, Some(mapped))] {
        assert_eq!(decide(spelled, address), verdict, "{target} and {spelled}, looked up: {address:?}");
    }
}

/// The values of flags.
pub(crate) fn flags(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let _ = args::go_bool(&text).map_err(|error| is_readable(&error));
    let _ = args::go_duration(&text).map_err(|error| is_readable(&error));
    let _ = args::at_least_one(&text).map_err(|error| is_readable(&error));
    let _ = args::labels(&text).map_err(|error| is_readable(&error));
    if let Ok(selector) = args::selector(&text) {
        assert_eq!(args::selector(&selector).as_ref(), Ok(&selector), "a selector that reads otherwise");
    }
}
