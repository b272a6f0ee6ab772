//! `status`: of the program on this host or, by their Leases, of all servers.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tunnel_kube::Access;
use tunnel_kube::leases::{Seen, list};

use super::{CommonArgs, View, remedy};
use crate::Program;
use crate::judge::{self, Coverage};
use crate::output::{Paint, about, ago, table};
use crate::report::{AgentStatus, Expiry, Health, Identities, Problem, ServerStatus, Status, Violation};
use crate::summary::{self, ANNOTATION};

pub(super) const SERVER_EXAMPLES: &str = "Examples:
  tunnel-server status
  tunnel-server status --wait=2m
  tunnel-server status -o json | jq .problems
  tunnel-server status --kubeconfig ~/.kube/config      # from a laptop: all servers

Exit codes: 0 well, 1 degraded, 2 down or no answer.";

pub(super) const AGENT_EXAMPLES: &str = "Examples:
  tunnel-agent status
  tunnel-agent status --wait
  kubectl -n kube-system exec POD -- /tunnel-agent status   # where the tunnel works

Exit codes: 0 well, 1 degraded, 2 down or no answer.";

/// Agents with unproven claims that the text names; `-o json` has more.
const VIOLATIONS: usize = 5;

/// Flags of `tunnel-server status`.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    #[command(flatten)]
    common: CommonArgs,

    /// Read the servers' Leases with this kubeconfig, and nothing else. Servers publish them
    /// with --enable-lease-controller.
    #[arg(long, value_name = "FILE", conflicts_with = "admin_socket")]
    kubeconfig: Option<PathBuf>,

    /// Namespace of the Leases.
    #[arg(short, long, value_name = "NAME", default_value = "kube-system", requires = "kubeconfig")]
    namespace: String,

    /// Label selector of the Leases.
    #[arg(long, value_name = "SELECTOR", value_parser = tunnel_program::args::selector,
          default_value = "k8s-app=konnectivity-server", requires = "kubeconfig")]
    selector: String,
}

/// Flags of `tunnel-agent status`.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    #[command(flatten)]
    common: CommonArgs,
}

impl ServerArgs {
    pub(super) async fn run(self) -> Health {
        match &self.kubeconfig {
            Some(file) => self.common.look(async || self.by_leases(file.clone()).await).await,
            None => local(&self.common, Program::Server).await,
        }
    }

    async fn by_leases(&self, kubeconfig: PathBuf) -> Shown {
        let shown = kubeconfig.display().to_string();
        let access = Access { kubeconfig: Some(kubeconfig), ..Access::default() };
        let read = async {
            let cluster = access.connect().await.map_err(|error| error.to_string())?;
            let leases = list(&cluster, &self.namespace, &self.selector, ANNOTATION).await;
            leases.map_err(|error| error.to_string())
        };
        match Box::pin(read).await {
            Ok(leases) if leases.is_empty() => Shown::down(
                format!("no tunnel server has a Lease in {} ({})", self.namespace, self.selector),
                "start tunnel-server with --enable-lease-controller, or give --namespace".to_owned(),
                "Leases",
            ),
            Ok(leases) => Shown::of_leases(&leases),
            Err(why) => Shown::down(why, format!("check {shown}: kubectl get leases"), "Leases"),
        }
    }
}

impl AgentArgs {
    pub(super) async fn run(self) -> Health {
        local(&self.common, Program::Agent).await
    }
}

async fn local(common: &CommonArgs, program: Program) -> Health {
    let client = common.client(program);
    let source = common.socket(program).display().to_string();
    let look = async || match client.status().await {
        Ok(status) => Shown::of_program(status, &source),
        Err(error) => Shown::down(error.to_string(), remedy(program, &error), &source),
    };
    common.look(look).await
}

/// The output of the command.
#[derive(Debug, Serialize)]
struct Shown {
    health: Health,
    problems: Vec<Problem>,
    servers: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<Coverage>,
    /// The socket or the Leases that were read.
    source: String,
    /// Age of the oldest part, in seconds.
    age: u64,
}

/// A server.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ServerStatus>,
}

impl Row {
    fn new(status: ServerStatus, problems: &mut Vec<Problem>) -> Self {
        let found = judge::of_server(&status);
        let health = judge::health(&found);
        problems.extend(found);
        Self { name: status.id.clone(), health, status: Some(status) }
    }

    /// A server that publishes no status we can read, or none any more.
    fn of_lease(lease: &Seen, problems: &mut Vec<Problem>) -> Self {
        let name = lease.holder.clone().unwrap_or_else(|| lease.name.clone());
        let status = lease.annotation.as_deref().and_then(summary::read);
        let age = lease.age.map_or_else(String::new, |age| format!(", renewed {} ago", about(age.as_secs())));
        let (health, what, next) = match status {
            Some(status) if lease.valid => return Self::new(status, problems),
            Some(_) | None if !lease.valid => (
                Health::Down,
                format!("the Lease of {name} has run out{age}"),
                "see the log of tunnel-server there",
            ),
            Some(_) | None => (
                Health::Degraded,
                format!("{name} publishes no status in its Lease"),
                "replace it by a tunnel-server of this version",
            ),
        };
        problems.push(Problem { health, what, next: next.to_owned() });
        Self { name, health, status: None }
    }

    fn cells(&self, paint: Paint) -> Vec<String> {
        let state = paint.health(self.health, self.health.label());
        let Some(status) = &self.status else {
            return [&self.name, "?", "?", "?", "?", "?", "?", &state].map(str::to_owned).into();
        };
        let agents = &status.agents;
        let state = if status.draining { paint.health(self.health, "draining") } else { state };
        vec![
            self.name.clone(),
            status.version.clone(),
            about(status.up),
            match &status.nodes {
                Some(nodes) if nodes.listed => format!("{}/{}", nodes.connected, nodes.expected),
                Some(_) | None => agents.connected.to_string(),
            },
            format!("{}/{}/{}", agents.quic, agents.h2, agents.konnectivity),
            status.streams.to_string(),
            status.stalled.to_string(),
            state,
        ]
    }
}

impl Shown {
    fn of_program(status: Status, source: &str) -> Self {
        match status {
            Status::Server(server) => {
                let mut problems = Vec::new();
                let row = Row::new(server, &mut problems);
                Self::of_rows(vec![row], problems, source.to_owned(), Duration::ZERO)
            }
            Status::Agent(agent) => {
                let problems = judge::problems(&Status::Agent(agent.clone()));
                let health = judge::health(&problems);
                let source = source.to_owned();
                Self {
                    health,
                    problems,
                    servers: Vec::new(),
                    agent: Some(agent),
                    nodes: None,
                    source,
                    age: 0,
                }
            }
        }
    }

    fn of_leases(leases: &[Seen]) -> Self {
        let mut problems = Vec::new();
        let rows = leases.iter().map(|lease| Row::of_lease(lease, &mut problems)).collect();
        let age = leases.iter().filter(|lease| lease.valid).filter_map(|lease| lease.age).max();
        Self::of_rows(rows, problems, "Leases".to_owned(), age.unwrap_or_default())
    }

    /// Down only if no server works.
    fn of_rows(servers: Vec<Row>, problems: Vec<Problem>, source: String, age: Duration) -> Self {
        let worst = servers.iter().map(|row| row.health).max().unwrap_or(Health::Down);
        let all_down = servers.iter().all(|row| row.health == Health::Down);
        let health = if all_down { Health::Down } else { worst.min(Health::Degraded) };
        let known: Vec<_> = servers.iter().filter_map(|row| row.status.clone()).collect();
        let nodes = judge::across(&known);
        Self { health, problems, servers, agent: None, nodes, source, age: age.as_secs() }
    }

    fn down(what: String, next: String, source: &str) -> Self {
        let problems = vec![Problem { health: Health::Down, what, next }];
        let (servers, source) = (Vec::new(), source.to_owned());
        Self { health: Health::Down, problems, servers, agent: None, nodes: None, source, age: 0 }
    }

    fn painted(&self, paint: Paint) -> String {
        let mut text = String::new();
        if !self.servers.is_empty() {
            let head = ["SERVER", "VERSION", "UP", "AGENTS", "QUIC/H2/KONN", "STREAMS", "STALLED", "STATE"];
            text += &table(&head, self.servers.iter().map(|row| row.cells(paint)));
        }
        if let Some(agent) = &self.agent {
            text += &of_agent(agent, self.health, paint);
        }
        if let Some(Coverage { expected, reachable, everywhere }) = self.nodes {
            text += &match self.servers.len() {
                1 => format!("nodes: {expected} expected, {reachable} connected\n"),
                _ => format!(
                    "nodes: {expected} expected, {reachable} reachable, {everywhere} on all servers\n"
                ),
            };
        }
        let identities = self
            .servers
            .iter()
            .filter_map(|row| Some((row.name.as_str(), row.status.as_ref()?.identities.as_ref()?)));
        for (server, identities) in identities {
            text += &of_identities(server, identities);
        }
        for problem in &self.problems {
            let mark = paint.health(problem.health, "!");
            text += &format!("{mark} {}\n  next: {}\n", problem.what, problem.next);
        }
        if let Some((of, Expiry { flag, file, left, .. })) = self.nearest() {
            text += &format!("certificates: the first {} ({flag} of {of}, {file})\n", ago(*left));
        }
        let age = if self.age > 0 { format!(", {} old", about(self.age)) } else { String::new() };
        text + &format!("source: {}{age}\n", self.source)
    }

    fn nearest(&self) -> Option<(&str, &Expiry)> {
        let servers = self
            .servers
            .iter()
            .filter_map(|row| Some((row.name.as_str(), row.status.as_ref()?.certificate.as_ref()?)));
        let agent =
            self.agent.iter().filter_map(|agent| Some((agent.id.as_str(), agent.certificate.as_ref()?)));
        servers.chain(agent).min_by_key(|(_, expiry)| expiry.left)
    }
}

fn of_agent(agent: &AgentStatus, health: Health, paint: Paint) -> String {
    let held = agent.servers.iter().filter(|server| server.state != "silent").count();
    let row = vec![
        agent.id.clone(),
        agent.version.clone(),
        about(agent.up),
        format!("{held}/{}", agent.wanted),
        agent.streams.to_string(),
        agent.stalled.to_string(),
        paint.health(health, if agent.draining { "draining" } else { health.label() }),
    ];
    let mut text = table(&["AGENT", "VERSION", "UP", "SERVERS", "STREAMS", "STALLED", "STATE"], [row]);
    let servers = agent.servers.iter().map(|server| {
        let (since, streams) = (about(server.since), server.streams.to_string());
        let words = [&server.id, &server.address, &server.link, &since, &streams, &server.state, &server.why];
        words.map(Clone::clone).into()
    });
    text += "\n";
    text += &table(&["SERVER", "ADDRESS", "LINK", "SINCE", "STREAMS", "STATE", "WHY THIS LINK"], servers);
    for missing in &agent.not_held {
        let led = missing.led_to.as_ref().map_or_else(String::new, |id| format!(" (last led to {id})"));
        let why = match (&missing.error, missing.failed) {
            (Some(error), Some(failed)) => format!("failed {} ago: {error}", about(failed)),
            (Some(error), None) => error.clone(),
            (None, _) => "not tried yet".to_owned(),
        };
        text += &format!("no tunnel: {}{led}: {why}\n", missing.address);
    }
    text
}

/// The agents whose claims are not proven: their number, and some of them.
fn of_identities(server: &str, identities: &Identities) -> String {
    let Some(verdict) = identities.verdict() else { return String::new() };
    let mut text = format!("identities: {verdict} (--identity-mode={} on {server})\n", identities.mode);
    for Violation { agent, identity, claims } in identities.violations.iter().take(VIOLATIONS) {
        text += &format!("  {agent}, whose identity is {identity}, claims {}\n", claims.join(", "));
    }
    let more = identities.violating.saturating_sub(VIOLATIONS);
    if more > 0 && !identities.violations.is_empty() {
        text += &format!("  and {more} more: tunnel-server status -o json\n");
    }
    text
}

impl View for Shown {
    fn health(&self) -> Health {
        self.health
    }

    fn fault(&self) -> String {
        let worst = self.problems.iter().max_by_key(|problem| problem.health);
        worst.map_or_else(|| self.health.label().to_owned(), |problem| problem.what.clone())
    }

    fn text(&self) -> String {
        self.painted(Paint::of_stdout())
    }
}

#[cfg(test)]
mod tests;
