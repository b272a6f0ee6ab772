//! `doctor`: all checks, `doctor list`, and `doctor explain`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::Instant;

use super::{CommonArgs, View};
use crate::Program;
use crate::doctor::gather::{self, Sources};
use crate::doctor::{CHECKS, Check, Facts, Finding, Verdict};
use crate::output::{Paint, print, short, table};
use crate::report::Health;

pub(super) const SERVER_EXAMPLES: &str = "Examples:
  tunnel-server doctor
  tunnel-server doctor --agents-dial=tunnel.example --egress-config=/etc/kubernetes/egress.yaml
  tunnel-server doctor explain T111             # offline
  tunnel-server doctor list

The checks are real dials and handshakes. The server's log and metrics show them as one refused
dial of doctor.invalid:0, dials of kubelets, and agents that were refused or left.

Exit codes: 0 well, 1 degraded, 2 down or no answer.";

pub(super) const AGENT_EXAMPLES: &str = "Examples:
  tunnel-agent doctor
  tunnel-agent doctor --wait=2m -o json
  tunnel-agent doctor explain T304              # offline

The checks are real handshakes with every server, and do not touch the running tunnels.

Exit codes: 0 well, 1 degraded, 2 down or no answer.";

/// Flags of `tunnel-server doctor`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServerArgs {
    #[command(subcommand)]
    command: Option<DoctorCommand>,

    /// The kube-apiserver's static pod.
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/manifests/kube-apiserver.yaml")]
    apiserver_manifest: PathBuf,

    /// The kube-apiserver's egress file. Without the flag the one that its static pod names.
    #[arg(long, value_name = "FILE")]
    egress_config: Option<PathBuf>,

    /// Names and addresses of this server in the agents' --proxy-server-host, separated by
    /// commas, to compare with its certificate.
    #[arg(long, value_name = "HOSTS", value_delimiter = ',')]
    agents_dial: Vec<String>,

    /// Port of the kubelets.
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    kubelet_port: u16,

    #[command(flatten)]
    common: CommonArgs,
}

/// Flags of `tunnel-agent doctor`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    #[command(subcommand)]
    command: Option<DoctorCommand>,

    /// Audience that the servers' --authentication-audience names.
    #[arg(long, value_name = "NAME", default_value = "system:konnectivity-server")]
    audience: String,

    /// Port of the node's kubelet.
    #[arg(long, value_name = "PORT", default_value_t = 10250)]
    kubelet_port: u16,

    #[command(flatten)]
    common: CommonArgs,
}

/// Commands of `doctor`, which need no program.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DoctorCommand {
    /// Explain a check: symptom, cause and cure.
    Explain {
        /// The check's id, such as T111.
        #[arg(value_name = "ID")]
        id: String,
    },
    /// List the checks.
    List,
}

impl DoctorCommand {
    fn run(&self, program: Program) -> Health {
        match self {
            Self::Explain { id } => {
                let Some(check) = Check::find(id) else {
                    print(&format!("there is no check {id}: see {} doctor list\n", program.name()));
                    return Health::Down;
                };
                print(&check.explain());
            }
            Self::List => {
                let checks = CHECKS.iter().filter(|check| check.is_for(program));
                print(&table(&[], checks.map(|check| vec![check.id.to_owned(), check.title.to_owned()])));
            }
        }
        Health::Ok
    }
}

impl ServerArgs {
    pub(super) async fn run(self) -> Health {
        match &self.command {
            Some(command) => command.run(Program::Server),
            None => self.common.look(async || self.look().await).await,
        }
    }

    async fn look(&self) -> Shown {
        let sources = Sources {
            manifest: self.apiserver_manifest.clone(),
            egress: self.egress_config.clone(),
            agents_dial: self.agents_dial.clone(),
            kubelet_port: self.kubelet_port,
            audience: String::new(),
        };
        let (client, began) = (self.common.client(Program::Server), Instant::now());
        let facts = Box::pin(gather::server(&client, &sources)).await;
        Shown::of(&facts, Program::Server, began.elapsed())
    }

    /// The results of one look in JSON.
    pub async fn json(&self) -> String {
        self.look().await.json()
    }
}

impl AgentArgs {
    pub(super) async fn run(self) -> Health {
        match &self.command {
            Some(command) => command.run(Program::Agent),
            None => self.common.look(async || self.look().await).await,
        }
    }

    async fn look(&self) -> Shown {
        let sources = Sources {
            kubelet_port: self.kubelet_port,
            audience: self.audience.clone(),
            ..Sources::default()
        };
        let (client, began) = (self.common.client(Program::Agent), Instant::now());
        let facts = Box::pin(gather::agent(&client, &sources)).await;
        Shown::of(&facts, Program::Agent, began.elapsed())
    }

    /// The results of one look in JSON.
    pub async fn json(&self) -> String {
        self.look().await.json()
    }
}

/// A check and its result.
#[derive(Debug, Serialize)]
struct Row {
    id: &'static str,
    title: &'static str,
    #[serde(flatten)]
    finding: Finding,
}

/// The output of the command.
#[derive(Debug, Serialize)]
struct Shown {
    health: Health,
    failed: usize,
    warnings: usize,
    ok: usize,
    skipped: usize,
    took_ms: u64,
    checks: Vec<Row>,
}

impl Shown {
    fn of(facts: &Facts, program: Program, took: Duration) -> Self {
        let checks = CHECKS.iter().filter(|check| check.is_for(program));
        let row =
            |check: &Check| Row { id: check.id, title: check.title, finding: check.judge(facts, program) };
        let checks: Vec<_> = checks.map(row).collect();
        let count = |verdict| checks.iter().filter(|row| row.finding.verdict == verdict).count();
        Self {
            health: checks.iter().map(|row| row.finding.health).max().unwrap_or(Health::Ok),
            failed: count(Verdict::Fail),
            warnings: count(Verdict::Warn),
            ok: count(Verdict::Ok),
            skipped: count(Verdict::Skip),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            checks,
        }
    }

    fn painted(&self, paint: Paint) -> String {
        let lines = self.checks.iter().map(|row| row.painted(paint));
        let mut text: String = lines.collect();
        let plural =
            |count: usize, one: &str, more: &str| format!("{count} {}", if count == 1 { one } else { more });
        let counts = [
            (self.failed, format!("{} failed", self.failed)),
            (self.warnings, plural(self.warnings, "warning", "warnings")),
            (1, format!("{} ok", self.ok)),
            (self.skipped, format!("{} skipped", self.skipped)),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text);
        text += &counts.collect::<Vec<_>>().join(", ");
        text + &format!(", {}\n", short(Duration::from_millis(self.took_ms)))
    }
}

impl Row {
    fn painted(&self, paint: Paint) -> String {
        let Finding { verdict, detail, notes, since, fix, .. } = &self.finding;
        let colour = match verdict {
            Verdict::Ok => Health::Ok,
            Verdict::Warn => Health::Degraded,
            Verdict::Fail => Health::Down,
            Verdict::Skip => return format!("skip  {} {}: {detail}\n", self.id, self.title),
        };
        let word = paint.health(colour, verdict.label());
        let gap = " ".repeat(6 - verdict.label().len());
        let mut text = format!("{word}{gap}{} {detail}\n", self.id);
        for note in notes {
            text += &format!("           {note}\n");
        }
        if let Some(since) = since {
            text += &format!("           since {since}\n");
        }
        if let Some(fix) = fix {
            text += &format!("           fix: {fix} (doctor explain {})\n", self.id);
        }
        text
    }
}

impl View for Shown {
    fn health(&self) -> Health {
        self.health
    }

    fn fault(&self) -> String {
        let worst = self.checks.iter().max_by_key(|row| row.finding.health);
        worst.map_or_else(String::new, |row| format!("{} {}", row.id, row.finding.detail))
    }

    fn text(&self) -> String {
        self.painted(Paint::of_stdout())
    }
}
