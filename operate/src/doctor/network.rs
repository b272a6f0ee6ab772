//! T2xx: the way between agents and servers.

use std::net::IpAddr;

use super::facts::{Buffer, Facts, Failed, Handshake, Way};
use super::finding::Finding;
use crate::output::short;
use crate::report::{AgentSetup, Datagram};

/// Bytes of IPv6 and UDP around a datagram.
const HEADERS: u32 = 48;

/// The datagram of every QUIC connection at its start, in bytes (RFC 9000 section 14).
const LEAST_DATAGRAM: u16 = 1200;

pub(super) fn quic(facts: &Facts) -> Finding {
    handshakes(facts, Way::Quic)
}

pub(super) fn http2(facts: &Facts) -> Finding {
    handshakes(facts, Way::Http2)
}

/// A failed link is a warning where the other one works and the flags allow it.
fn handshakes(facts: &Facts, link: Way) -> Finding {
    let all = match &facts.handshakes {
        Ok(all) => all,
        Err(why) => return Finding::skip(why.clone()),
    };
    let agent = facts.agent.as_ref().ok();
    let transport = agent.map_or("auto", |agent| agent.transport.as_str());
    let (unused, only) = match link {
        Way::Quic => (matches!(transport, "h2" | "konnectivity"), transport == "quic"),
        Way::Http2 => (transport == "quic", matches!(transport, "h2" | "konnectivity")),
    };
    if unused {
        return Finding::skip(format!("--transport={transport}"));
    }
    let these: Vec<_> = all.iter().filter(|shake| shake.link == link).collect();
    if these.is_empty() {
        return Finding::skip(skipped(agent, link));
    }
    // A fault of the certificate is T304's.
    let failed: Vec<_> = these.iter().filter_map(|shake| Some((*shake, other(shake)?))).collect();
    let lines = these.iter().map(|shake| line(shake)).collect::<Vec<_>>();
    let (of, name) = (these.len(), link.label());
    let Some((first, why)) = failed.first() else {
        let slowest = these.iter().filter_map(|shake| shake.outcome.as_ref().ok()).max();
        let took = slowest.map_or_else(String::new, |time| format!(", at most {}", short(*time)));
        let notes = if of > 1 { lines } else { Vec::new() };
        let done = these.iter().filter(|shake| shake.outcome.is_ok()).count();
        if done == 0 {
            return Finding::skip("no certificate of a server is accepted (T304)");
        }
        return Finding::ok(format!("{name} handshakes with {done} of {of} addresses{took}")).notes(notes);
    };
    let works = |address: &str| {
        all.iter().any(|shake| shake.link != link && shake.address == address && shake.outcome.is_ok())
    };
    let others_work = !only && failed.iter().all(|(shake, _)| works(&shake.address));
    let detail = format!("{name} fails with {} of {of} addresses: {}: {why}", failed.len(), first.address);
    let fix = match link {
        Way::Quic => "let UDP through to the agents' port, in firewalls, NetworkPolicies and load balancers",
        Way::Http2 => "let TCP through to the agents' port, and see that no proxy in between ends TLS",
    };
    match (others_work, failed.len() == of) {
        (true, _) => Finding::warn(detail, fix),
        (false, true) => Finding::down(detail, fix),
        (false, false) => Finding::fail(detail, fix),
    }
    .notes(lines)
}

fn skipped(agent: Option<&AgentSetup>, link: Way) -> String {
    let proxied = agent.is_some_and(|agent| agent.servers.iter().any(|server| server.proxy.is_some()));
    match link {
        Way::Quic if proxied => "QUIC does not go through the proxy (T206)".to_owned(),
        Way::Http2 if proxied => "servers are reached through a proxy; T403 tells its tunnels".to_owned(),
        Way::Quic | Way::Http2 => "no address of a server is known (T205)".to_owned(),
    }
}

fn other(shake: &Handshake) -> Option<&str> {
    match &shake.outcome {
        Err(Failed::Other(why)) => Some(why),
        Err(Failed::Certificate(_)) | Ok(_) => None,
    }
}

fn line(shake: &Handshake) -> String {
    let how = match &shake.outcome {
        Ok(took) => short(*took),
        Err(Failed::Certificate(_)) => "the certificate is not accepted (T304)".to_owned(),
        Err(Failed::Other(why)) => why.clone(),
    };
    format!("{}: {how}", shake.address)
}

pub(super) fn buffer(facts: &Facts) -> Finding {
    match facts.buffer {
        Err(ref why) => Finding::skip(why.clone()),
        Ok(Buffer { requested, given }) if given < requested => Finding::warn(
            format!(
                "UDP sockets get a receive buffer of {} KiB of {} KiB: bursts are lost",
                given >> 10,
                requested >> 10
            ),
            format!(
                "sysctl -w net.core.rmem_max={requested} net.core.wmem_max={requested}, also in /etc/sysctl.d"
            ),
        ),
        Ok(Buffer { given, .. }) => {
            Finding::ok(format!("UDP sockets get a receive buffer of {} KiB", given >> 10))
        }
    }
}

pub(super) fn mtu(facts: &Facts) -> Finding {
    let mtu = match &facts.interfaces {
        Ok(mtu) => *mtu,
        Err(why) => return Finding::skip(why.clone()),
    };
    if mtu < u32::from(LEAST_DATAGRAM) + HEADERS {
        return Finding::fail(
            format!("this host's interfaces carry packets of {mtu} bytes; QUIC needs 1248"),
            "raise the MTU of the interface or overlay, or start agents with --transport=h2",
        );
    }
    let tunnels: Vec<Datagram> = match (&facts.server, &facts.agent) {
        (Ok(server), _) => server.connected.iter().filter_map(|agent| agent.datagram).collect(),
        (Err(_), Ok(agent)) => agent.datagrams.clone(),
        (Err(_), Err(_)) => Vec::new(),
    };
    let least =
        |datagram: &&Datagram| datagram.now == LEAST_DATAGRAM && datagram.most >= LEAST_DATAGRAM + 100;
    let small = tunnels.iter().filter(least).count();
    if small > 0 {
        return Finding::warn(
            format!(
                "{small} of {} tunnels on QUIC use datagrams of {LEAST_DATAGRAM} bytes, on interfaces of {mtu}",
                tunnels.len()
            ),
            "look for a smaller MTU on the path (an overlay, a VPN), and set net.ipv4.tcp_mtu_probing=1 for \
             HTTP/2 on such a path; a tunnel of the last minute still measures",
        );
    }
    let sizes = tunnels.iter().map(|datagram| datagram.now);
    let shown = match (sizes.clone().min(), sizes.max()) {
        (Some(least), Some(most)) if least == most => format!(", tunnels use datagrams of {most}"),
        (Some(least), Some(most)) => format!(", tunnels use datagrams of {least} to {most}"),
        _ => String::new(),
    };
    Finding::ok(format!("interfaces carry packets of {mtu} bytes{shown}"))
}

pub(super) fn names_resolve(facts: &Facts) -> Finding {
    let lookups = match &facts.lookups {
        Ok(lookups) => lookups,
        Err(why) => return Finding::skip(why.clone()),
    };
    let failed = |lookup: &&super::facts::Lookup| lookup.found.is_err();
    let (of, bad) = (lookups.len(), lookups.iter().filter(failed).count());
    let lines = lookups.iter().map(|lookup| match &lookup.found {
        Ok(found) => format!("{} → {}", lookup.host, found.join(", ")),
        Err(why) => format!("{}: {why}", lookup.host),
    });
    let lines: Vec<_> = lines.collect();
    let fix = "see --proxy-server-host and the resolver (T207): a pod on the host network needs dnsPolicy: Default \
               or ClusterFirstWithHostNet";
    match bad {
        0 if of == 0 => Finding::skip("all servers are reached through a proxy, which resolves their names"),
        0 => Finding::ok(format!("{of} of {of} names of servers resolve")).notes(lines),
        _ if bad == of => Finding::down(format!("no name of a server resolves: {}", lines.join("; ")), fix),
        _ => Finding::fail(format!("{bad} of {of} names of servers do not resolve"), fix).notes(lines),
    }
}

pub(super) fn proxy(facts: &Facts) -> Finding {
    let Ok(agent) = &facts.agent else { return Finding::skip("the agent does not answer (T100)") };
    let proxied: Vec<_> = agent
        .servers
        .iter()
        .filter_map(|server| {
            Some(format!("{}:{} through {}", server.host, server.port, server.proxy.as_ref()?))
        })
        .collect();
    let fix = "add the servers to NO_PROXY of the agent, if they can be reached without the proxy";
    if proxied.is_empty() {
        return Finding::ok("servers are reached without a proxy");
    }
    match agent.transport.as_str() {
        "quic" => Finding::down("--transport=quic, and QUIC does not go through a proxy", fix).notes(proxied),
        "auto" => {
            Finding::warn("HTTPS_PROXY leads to servers, so tunnels use HTTP/2 only", fix).notes(proxied)
        }
        _ => Finding::ok(format!("HTTPS_PROXY leads to {} servers", proxied.len())).notes(proxied),
    }
}

pub(super) fn resolver(facts: &Facts) -> Finding {
    let (agent, resolver) = match (&facts.agent, &facts.resolver) {
        (Ok(agent), Ok(resolver)) => (agent, resolver),
        (Err(_), _) => return Finding::skip("the agent does not answer (T100)"),
        (_, Err(why)) => return Finding::skip(why.clone()),
    };
    let names = agent.servers.iter().map(|server| &server.host);
    let names: Vec<_> = names.filter(|host| host.parse::<IpAddr>().is_err()).cloned().collect();
    let shown = resolver.servers.join(", ");
    let in_cluster = resolver.search.iter().any(|domain| domain.starts_with("svc."));
    if names.is_empty() {
        return Finding::ok(format!("servers are named by address; targets' names are resolved by {shown}"));
    }
    if resolver.servers.is_empty() {
        return Finding::fail(
            format!("/etc/resolv.conf names no resolver, and servers have names: {}", names.join(", ")),
            "set dnsPolicy: Default in the agent's pod, or name servers by address",
        );
    }
    if in_cluster {
        return Finding::warn(
            format!(
                "{} is resolved by the cluster's DNS ({shown}), which may need this tunnel",
                names.join(", ")
            ),
            "set dnsPolicy: Default in the agent's pod, unless targets have to be resolved in the cluster",
        );
    }
    Finding::ok(format!("names are resolved by {shown}, without the cluster's DNS"))
}
