//! T100 to T109: the kube-apiserver's way to the frontend.

use std::path::Path;

use super::egress::{Egress, EgressFile, Refused, Route};
use super::facts::{Dial, Facts};
use super::finding::Finding;
use super::manifest::Manifest;
use crate::Program;
use crate::output::short;
use crate::report::ServerSetup;

/// Traffic of each name (`k8s.io/apiserver/pkg/server/egressselector`).
const TRAFFIC: [(&str, &str); 3] = [
    ("cluster", "kubelets, node, pod and service proxies, aggregated APIs, webhooks of services"),
    ("controlplane", "webhooks by URL, authentication, authorization and audit webhooks, OIDC, tracing"),
    ("etcd", "etcd"),
];

pub(super) fn answers(facts: &Facts, program: Program) -> Finding {
    let error = match program {
        Program::Server => facts.server.as_ref().err(),
        Program::Agent => facts.agent.as_ref().err(),
    };
    let name = program.name();
    match error {
        None => Finding::ok(format!("{name} answers on its admin socket")),
        Some(error) => Finding::down(
            error.clone(),
            format!(
                "start {name} with --admin-socket={}, and run this as its user or root",
                program.socket()
            ),
        ),
    }
}

/// The content of the egress file, or why there is none to look at.
fn egress(facts: &Facts) -> Result<(&EgressFile, &Egress), Finding> {
    let file = facts.egress.as_ref().map_err(|why| Finding::skip(why.clone()))?;
    match &file.content {
        Ok(content) => Ok((file, content)),
        Err(_) => Err(Finding::skip("the egress file cannot be read (T101)")),
    }
}

pub(super) fn manifest(facts: &Facts) -> Result<&Manifest, Finding> {
    facts.manifest.as_ref().map_err(|why| Finding::skip(why.clone()))
}

pub(super) fn server(facts: &Facts) -> Result<&ServerSetup, Finding> {
    facts.server.as_ref().map_err(|_| Finding::skip("the server does not answer (T100)"))
}

/// The finding of a check whose facts may be missing.
pub(super) fn either(finding: Result<Finding, Finding>) -> Finding {
    finding.unwrap_or_else(|finding| finding)
}

pub(super) fn parses(facts: &Facts) -> Finding {
    let file = match &facts.egress {
        Ok(file) => file,
        Err(why) => return Finding::skip(why.clone()),
    };
    let shown = file.path.display();
    let content = match &file.content {
        Ok(content) => content,
        Err(why) => {
            return Finding::down(format!("{shown}: {why}"), "write the file anew: doctor explain T101");
        }
    };
    let minor = facts.manifest.as_ref().ok().and_then(|manifest| manifest.minor);
    let refused = |refused: Refused| match refused {
        // A new version decides where the version is not known.
        Refused::From(_) => refused.by(minor).unwrap_or(true),
        Refused::ByAll | Refused::Before(_) => refused.by(minor).unwrap_or(false),
    };
    let text = |refused: Refused, text: &str| match refused {
        Refused::ByAll => text.to_owned(),
        Refused::From(first) => format!("{text} (refused from Kubernetes 1.{first} on)"),
        Refused::Before(first) => format!("{text} (refused before Kubernetes 1.{first})"),
    };
    let (fatal, others): (Vec<_>, Vec<_>) = content.faults.iter().partition(|fault| refused(fault.refused));
    let words = |faults: &[&super::egress::Fault]| {
        faults.iter().map(|fault| text(fault.refused, &fault.text)).collect::<Vec<_>>()
    };
    let fix = format!("correct {shown} and restart the kube-apiserver, which reads it only at its start");
    match (fatal.is_empty(), others.is_empty()) {
        (false, _) => Finding::down(format!("{shown}: the kube-apiserver does not start with it"), fix)
            .notes(words(&fatal)),
        (true, false) => Finding::warn(format!("{shown}: another version does not start with it"), fix)
            .notes(words(&others)),
        (true, true) => Finding::ok(format!("egress file {shown} parses")),
    }
}

pub(super) fn traffic(facts: &Facts) -> Finding {
    either(egress(facts).map(|(file, content)| {
        let lines = TRAFFIC.map(|(name, traffic)| {
            let way = content.route(name).map_or_else(|| "direct (not named)".to_owned(), Route::label);
            format!("{name} → {way}: {traffic}")
        });
        match content.route("cluster") {
            None if content.faults.iter().any(|fault| fault.refused == Refused::ByAll) => {
                return Finding::skip("the egress file has faults (T101)");
            }
            Some(Route::Direct) | None => Finding::down(
                format!("{}: connections to nodes do not use the tunnel", file.path.display()),
                "give the name cluster proxyProtocol: GRPC or HTTPConnect with the server's socket",
            ),
            Some(Route::Grpc(_) | Route::Connect(_) | Route::ConnectTls(_)) => {
                Finding::ok("connections to nodes, pods and services use the tunnel")
            }
        }
        .notes(lines)
    }))
}

pub(super) fn file_is_used(facts: &Facts) -> Finding {
    let used = || {
        let manifest = manifest(facts)?;
        let shown = manifest.path.display();
        let Some(flag) = manifest.flag("egress-selector-config-file") else {
            let file =
                facts.egress.as_ref().map_or_else(|_| "FILE".to_owned(), |f| f.path.display().to_string());
            return Ok(Finding::down(
                format!("{shown} has no --egress-selector-config-file: the tunnel is not used"),
                format!(
                    "add --egress-selector-config-file={file} to the kube-apiserver, and mount its directory"
                ),
            ));
        };
        let Some(host) = manifest.on_host(Path::new(flag)) else {
            return Ok(Finding::down(
                format!("{shown} does not mount {flag}: the kube-apiserver does not start"),
                format!("mount the directory of {flag} into the kube-apiserver (volumes, volumeMounts)"),
            ));
        };
        match &facts.egress {
            Ok(file) if file.path != host => Ok(Finding::fail(
                format!("the kube-apiserver reads {}, and not {}", host.display(), file.path.display()),
                "change that file, or the flag --egress-selector-config-file",
            )),
            Ok(_) | Err(_) => Ok(Finding::ok(format!("the kube-apiserver reads {}", host.display()))),
        }
    };
    either(used())
}

pub(super) fn socket_is_mounted(facts: &Facts) -> Finding {
    let mounted = || {
        let (_, content) = egress(facts)?;
        let (Some(Route::Grpc(socket)) | Some(Route::Connect(socket))) = content.route("cluster") else {
            return Ok(Finding::skip("the egress file names no Unix socket"));
        };
        let (manifest, shown) = (manifest(facts)?, socket.display());
        let directory = socket.parent().unwrap_or(socket).display();
        if manifest.mounts_itself(socket) {
            return Ok(Finding::fail(
                format!("the kube-apiserver mounts the socket {shown} itself: it loses a restarted server"),
                format!("mount the directory {directory} in place of the socket"),
            ));
        }
        Ok(match manifest.on_host(socket) {
            Some(host) => {
                Finding::ok(format!("the kube-apiserver sees {shown}, on the host {}", host.display()))
            }
            None => Finding::down(
                format!("the kube-apiserver does not mount {directory}, so it cannot reach {shown}"),
                format!("mount {directory} into the kube-apiserver, with type DirectoryOrCreate"),
            ),
        })
    };
    either(mounted())
}

pub(super) fn socket_is_ours(facts: &Facts) -> Finding {
    let ours = || {
        let ((file, content), server) = (egress(facts)?, server(facts)?);
        let shown = file.path.display();
        let (socket, protocol) = match content.route("cluster") {
            Some(Route::Grpc(socket)) => (socket, "grpc"),
            Some(Route::Connect(socket)) => (socket, "http-connect"),
            Some(Route::ConnectTls(tls)) => return Ok(port_is_ours(&tls.address, server)),
            Some(Route::Direct) | None => {
                return Ok(Finding::skip("the egress file names no frontend (T102)"));
            }
        };
        if let Some(mode) = server.mode.as_deref().filter(|mode| *mode != protocol) {
            return Ok(Finding::down(
                format!("{shown} uses {protocol}, and the server has --mode={mode}"),
                "leave --mode out: the server then serves both protocols",
            ));
        }
        let host = facts.manifest.as_ref().ok().and_then(|manifest| manifest.on_host(socket));
        let same_name = Path::new(&server.unix) == socket
            || host.as_deref().is_some_and(|host| Path::new(&server.unix) == host);
        Ok(match &facts.same_socket {
            _ if server.unix.is_empty() => Finding::down(
                format!("{shown} names the socket {}, and the server has none", socket.display()),
                format!("start tunnel-server with --uds-name={}", socket.display()),
            ),
            Ok(true) => Finding::ok(format!("the egress file names this server's socket {}", server.unix)),
            Ok(false) | Err(_) if same_name => {
                Finding::ok(format!("the egress file names this server's --uds-name {}", server.unix))
            }
            Ok(false) | Err(_) => Finding::down(
                format!("{shown} names {}, and the server listens on {}", socket.display(), server.unix),
                format!("start tunnel-server with --uds-name={}, or change udsName", socket.display()),
            ),
        })
    };
    either(ours())
}

fn port_is_ours(address: &str, server: &ServerSetup) -> Finding {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match server.tcp {
        _ if server.mode.as_deref() == Some("grpc") => Finding::down(
            "the egress file uses HTTPConnect, and the server has --mode=grpc",
            "leave --mode out: the server then serves both protocols",
        ),
        Some(ours) if Some(ours) == port => {
            Finding::ok(format!("the egress file names this server's port {ours}"))
        }
        Some(ours) => Finding::warn(
            format!("the egress file names {address}, and the server listens on port {ours}"),
            "make both the same, unless a load balancer is in between",
        ),
        None => Finding::down(
            format!("the egress file names {address}, and the server has no frontend on TCP"),
            "start tunnel-server with --server-port, --server-cert, --server-key and --server-ca-cert",
        ),
    }
}

pub(super) fn frontend_answers(facts: &Facts) -> Finding {
    match &facts.dial {
        Err(why) => Finding::skip(why.clone()),
        Ok(Dial { frontend, took, failure: None }) => {
            Finding::ok(format!("{frontend} answers a dial in {}", short(*took)))
        }
        Ok(Dial { frontend, failure: Some(why), .. }) => Finding::down(
            format!("{frontend} does not answer a dial: {why}"),
            "see that tunnel-server runs, and that the socket is the one of its --uds-name",
        ),
    }
}
