//! T4xx: agents, nodes and kubelets.

use super::control_plane::either;
use super::facts::{Admitted, Facts};
use super::finding::Finding;
use crate::judge;
use crate::output::about;
use crate::report::{AgentStatus, Health, Problem, ServerStatus, Status};

fn status(facts: &Facts) -> Result<&Status, Finding> {
    facts.status.as_ref().map_err(|_| Finding::skip("the program does not answer (T100)"))
}

/// The finding of problems: the worst one, and the others below it.
fn worst(problems: &[Problem], well: impl FnOnce() -> Finding) -> Finding {
    let Some(first) = problems.iter().max_by_key(|problem| problem.health) else { return well() };
    let others = problems.iter().filter(|problem| *problem != first).map(|problem| problem.what.clone());
    let (what, next) = (first.what.clone(), first.next.clone());
    match first.health {
        Health::Down => Finding::down(what, next),
        Health::Degraded | Health::Ok => Finding::fail(what, next),
    }
    .notes(others)
}

pub(super) fn nodes(facts: &Facts) -> Finding {
    either(status(facts).map(|status| match status {
        Status::Server(server) => of_server(server),
        Status::Agent(_) => Finding::skip("an agent knows no nodes"),
    }))
}

fn of_server(server: &ServerStatus) -> Finding {
    worst(&judge::agents(server), || match &server.nodes {
        Some(nodes) => {
            Finding::ok(format!("{} of {} nodes have a connected agent", nodes.connected, nodes.expected))
        }
        None => Finding::skip(format!(
            "connected agents: {}; with --expected-nodes the server compares them with the nodes",
            server.agents.connected
        )),
    })
}

fn agent(status: &Status) -> Result<&AgentStatus, Finding> {
    match status {
        Status::Agent(agent) => Ok(agent),
        Status::Server(_) => Err(Finding::skip("a server has no tunnels of its own")),
    }
}

pub(super) fn tunnels(facts: &Facts) -> Finding {
    either(status(facts).and_then(agent).map(|agent| {
        let lines = agent
            .not_held
            .iter()
            .filter_map(|address| Some(format!("{}: {}", address.address, address.error.as_ref()?)));
        let failed = agent.not_held.iter().filter_map(|address| address.failed).max();
        let last = failed.map(|failed| format!("the last attempt failed {} ago", about(failed)));
        let well = || Finding::ok(format!("tunnels to {} of {} servers", agent.servers.len(), agent.wanted));
        let finding = worst(&judge::tunnels(agent), well);
        if finding.health == Health::Ok { finding } else { finding.notes(lines).notes(last) }
    }))
}

pub(super) fn admitted(facts: &Facts) -> Finding {
    let admissions = match &facts.admissions {
        Ok(admissions) if admissions.is_empty() => {
            return Finding::skip("no handshake came to an end (T201, T202)");
        }
        Ok(admissions) => admissions,
        Err(why) => return Finding::skip(why.clone()),
    };
    let (mut servers, mut refused, mut unknown) = (Vec::new(), None, Vec::new());
    for admission in admissions {
        let at = format!("{} ({})", admission.address, admission.link.label());
        match &admission.outcome {
            Admitted::Yes(id) if servers.contains(id) => {}
            Admitted::Yes(id) => servers.push(id.clone()),
            Admitted::No(why) => {
                refused = refused.or_else(|| Some(format!("{at} refuses this agent: {why}")))
            }
            Admitted::Unknown(why) => unknown.push(format!("{at}: {why}")),
        }
    }
    match refused {
        Some(why) if servers.is_empty() => Finding::down(why, FIX),
        Some(why) => Finding::fail(why, FIX),
        None if servers.is_empty() => Finding::skip(unknown.join("; ")),
        None => Finding::ok(format!("this agent's credentials admit it to {}", servers.join(", "))),
    }
}

const FIX: &str = "compare the server's --cluster-ca-cert with --agent-cert, and its --authentication-audience, \
                   --agent-namespace and --agent-service-account with the token (T306); see the server's log";

pub(super) fn own_kubelet(facts: &Facts) -> Finding {
    let report = match &facts.own_kubelet {
        Ok(report) => report,
        Err(why) => return Finding::skip(why.clone()),
    };
    let target = &report.target;
    match &report.failure {
        None => Finding::ok(format!("the kubelet {target} accepts connections of this agent")),
        Some(failure) if failure.health == Health::Degraded && failure.kind == "expired" => Finding::warn(
            format!("the kubelet {target}: {}", failure.text),
            "renew it: kubeadm certs renew, or rotateCertificates and serverTLSBootstrap in the kubelet",
        ),
        Some(failure) => Finding::fail(
            format!("this agent does not reach the kubelet {target}: {}", failure.text),
            format!(
                "see that the address is this node's, and that no firewall refuses {target} from this pod"
            ),
        ),
    }
}
