//! T3xx: admission of strangers, certificates, tokens, and clocks.

use super::facts::{Admission, Admitted, Facts, Failed, Handshake, Known};
use super::finding::Finding;
use crate::judge::{EXPIRES_MONTH, expired};
use crate::output::{about, ago};
use crate::report::Expiry;
use crate::witness::Fault;

/// Seconds that clocks may differ. Certificates and tokens of this minute fail beyond it.
const SKEW: u64 = 5;

/// Seconds that break certificates, tokens and Leases.
const BROKEN_SKEW: u64 = 60;

/// A token that expires sooner is not renewed: a kubelet renews at four fifths of its life, of
/// ten minutes at least.
const TOKEN_ENDS: u64 = 60;

pub(super) fn anonymous(facts: &Facts) -> Finding {
    let fix = "start tunnel-server with --cluster-ca-cert or with --agent-namespace, --agent-service-account and \
               --authentication-audience, and without --insecure-allow-anonymous-agents";
    refused(&facts.anonymous, "an agent without certificate and token", fix)
}

pub(super) fn stranger(facts: &Facts) -> Finding {
    let fix = "see that --cluster-ca-cert has only the agents' CA, and that tokens are reviewed";
    refused(&facts.stranger, "an agent with a certificate of an unknown CA", fix)
}

fn refused(admissions: &Known<Vec<Admission>>, agent: &str, fix: &str) -> Finding {
    let admissions = match admissions {
        Ok(admissions) => admissions,
        Err(why) => return Finding::skip(why.clone()),
    };
    let mut unknown = None;
    for Admission { address, link, outcome } in admissions {
        match outcome {
            Admitted::Yes(_) => {
                let text = format!("{agent} is admitted on {} at {address}, and gets traffic", link.label());
                return Finding::fail(text, fix);
            }
            Admitted::Unknown(why) => unknown = Some(format!("{} at {address}: {why}", link.label())),
            Admitted::No(_) => {}
        }
    }
    match unknown {
        Some(why) => Finding::skip(format!("no answer on {why}")),
        None => {
            let links: Vec<_> = admissions.iter().map(|admission| admission.link.label()).collect();
            Finding::ok(format!("{agent} is refused on {}", links.join(" and ")))
        }
    }
}

pub(super) fn expiries(facts: &Facts) -> Finding {
    let all = match &facts.certificates {
        Ok(all) => all,
        Err(why) => return Finding::skip(why.clone()),
    };
    let Some(first) = all.iter().min_by_key(|expiry| expiry.left) else {
        return Finding::skip("no flag names a certificate");
    };
    let soon = all.iter().filter(|expiry| expiry.left < EXPIRES_MONTH);
    let lines: Vec<_> =
        soon.map(|expiry| format!("{} {} {}", expiry.flag, expiry.file, ago(expiry.left))).collect();
    let lines = if lines.len() > 1 { lines } else { Vec::new() };
    let detail = format!("{} {} {}", first.flag, first.file, ago(first.left));
    let fix = "renew it (kubeadm certs renew): the program reads it within ten seconds, without a restart";
    if expired(first) {
        Finding::fail(detail, fix).since(Some(first.not_after.clone())).notes(lines)
    } else if first.left < EXPIRES_MONTH {
        Finding::warn(detail, fix).notes(lines)
    } else if let Some(Expiry { flag, file, .. }) = facts.stale.first() {
        Finding::warn(
            format!("{flag} {file} has changed, and the program uses the certificate from before"),
            "see the program's log for the fault of the file",
        )
    } else {
        Finding::ok(format!("{} certificates; the first {} ({})", all.len(), ago(first.left), first.file))
    }
}

pub(super) fn server_names(facts: &Facts) -> Finding {
    if facts.agent.is_ok() {
        return presented(&facts.handshakes);
    }
    let (certificate, dialled) = match &facts.named {
        Ok(named) => named,
        Err(why) => return Finding::skip(why.clone()),
    };
    let names = certificate.names.join(", ");
    let fix = "issue --cluster-cert with a subjectAltName for every name and address that agents dial (kubeadm: \
               apiServer.certSANs)";
    if certificate.names.is_empty() {
        return Finding::down("the server's certificate has no subjectAltName, so no agent accepts it", fix);
    }
    match dialled.iter().find(|name| !is_for(&certificate.names, name)) {
        Some(name) => {
            Finding::down(format!("the server's certificate is not for {name}, but for {names}"), fix)
        }
        None if dialled.is_empty() => Finding::skip(format!(
            "the certificate is for {names}; name the agents' --proxy-server-host with --agents-dial to compare"
        )),
        None => Finding::ok(format!("the server's certificate is for {}", dialled.join(", "))),
    }
}

/// Whether a certificate's names contain a name or address (RFC 6125 section 6.4.3).
fn is_for(names: &[String], name: &str) -> bool {
    let matches = |known: &String| match (known.strip_prefix("*."), name.split_once('.')) {
        (Some(domain), Some((_, rest))) => domain.eq_ignore_ascii_case(rest),
        _ => known.eq_ignore_ascii_case(name),
    };
    names.iter().any(matches)
}

/// The certificates that servers presented to this agent.
fn presented(handshakes: &Known<Vec<Handshake>>) -> Finding {
    let all = match handshakes {
        Ok(all) => all,
        Err(why) => return Finding::skip(why.clone()),
    };
    let fault = all.iter().find_map(|shake| match &shake.outcome {
        Err(Failed::Certificate(fault)) => Some((shake, fault)),
        Err(Failed::Other(_)) | Ok(_) => None,
    });
    let Some((Handshake { address, name, .. }, fault)) = fault else {
        return match all.iter().filter(|shake| shake.outcome.is_ok()).count() {
            0 => Finding::skip("no handshake came to an end (T201, T202)"),
            _ => Finding::ok(
                "servers' certificates are for the names that are dialled, of the CA in --ca-cert",
            ),
        };
    };
    let (detail, fix) = match fault {
        Fault::Name => (
            format!("the certificate of {address} is not for {name}"),
            format!("add {name} to the subjectAltName of --cluster-cert, or dial a name that it has"),
        ),
        Fault::Authority => (
            format!("the certificate of {address} is of a CA that is not in --ca-cert"),
            "give --ca-cert the CA of the server's --cluster-cert (with kubeadm: kube-root-ca.crt)"
                .to_owned(),
        ),
        Fault::Expired => (
            format!("the certificate of {address} has expired"),
            "renew the server's --cluster-cert; if it is valid, see the clock (T305)".to_owned(),
        ),
        Fault::Early => (
            format!("the certificate of {address} is not valid yet"),
            "set this host's clock (T305)".to_owned(),
        ),
        Fault::Other(why) => (
            format!("the certificate of {address} is not accepted: {why}"),
            "issue --cluster-cert anew as a server's certificate (extendedKeyUsage serverAuth)".to_owned(),
        ),
    };
    let works = all.iter().any(|shake| shake.outcome.is_ok());
    if works { Finding::fail(detail, fix) } else { Finding::down(detail, fix) }
}

pub(super) fn clock(facts: &Facts) -> Finding {
    let ahead = match &facts.clock {
        Ok(ahead) => *ahead,
        Err(why) => return Finding::skip(why.clone()),
    };
    let way = if ahead < 0 { "behind" } else { "ahead of" };
    let (by, fix) = (ahead.unsigned_abs(), "start a time service on this host: chronyd or systemd-timesyncd");
    let detail = format!("this host's clock is {} {way} the kube-apiserver's", about(by));
    if by > BROKEN_SKEW {
        Finding::fail(detail, fix)
    } else if by > SKEW {
        Finding::warn(detail, fix)
    } else {
        Finding::ok("this host's clock agrees with the kube-apiserver's")
    }
}

pub(super) fn token(facts: &Facts) -> Finding {
    let file = match &facts.token {
        Ok(file) => file,
        Err(why) => return Finding::skip(why.clone()),
    };
    let shown = file.path.display();
    let fix = format!("mount a projected serviceAccountToken with audience {} there", file.expected);
    let (audiences, left) = match &file.claims {
        Ok(claims) => claims,
        Err(why) => return Finding::fail(format!("{shown}: {why}"), fix),
    };
    let of = if audiences.is_empty() { "none".to_owned() } else { audiences.join(", ") };
    let ends = left.map_or_else(|| "never expires".to_owned(), |left| format!("expires in {}", about(left)));
    if *left == Some(0) {
        return Finding::fail(
            format!("the token in {shown} has expired"),
            "see why the kubelet does not renew it",
        );
    }
    if left.is_some_and(|left| left < TOKEN_ENDS) {
        return Finding::warn(
            format!("the token in {shown} {ends}"),
            "see why the kubelet does not renew it",
        );
    }
    if !audiences.contains(&file.expected) {
        return Finding::warn(
            format!("the token in {shown} is for {of}, and not for {}", file.expected),
            fix,
        );
    }
    Finding::ok(format!("the token is for {of} and {ends}"))
}
