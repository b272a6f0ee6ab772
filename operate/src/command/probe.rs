//! `probe`: one dial, with the time of each stage.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tunnel_program::args::go_duration;

use super::{CommonArgs, View, remedy};
use crate::Program;
use crate::output::{Paint, ago, millis, table};
use crate::report::{Failure, Health, ProbeReport, ProbeRequest, Stage, TlsMode};

pub(super) const SERVER_EXAMPLES: &str = "Examples:
  tunnel-server probe 10.0.3.7:10250            # a kubelet, through the tunnel
  tunnel-server probe worker-7:10250 --tls=always
  tunnel-server probe 10.96.0.10:53 --tls=never # sends the target no byte

The stage `tunnel` is the time from the agent and back, without the agent's own connect.
Nothing verifies the target's certificate.

Exit codes: 0 well, 1 reached but TLS failed or the certificate expired, 2 not reached.";

pub(super) const AGENT_EXAMPLES: &str = "Examples:
  tunnel-agent probe 10.0.3.7:10250
  tunnel-agent probe metrics.kube-system.svc:443 --timeout=2s

Nothing verifies the target's certificate.

Exit codes: 0 well, 1 reached but TLS failed or the certificate expired, 2 not reached.";

/// Longest `--timeout`: connections to the admin socket end after three minutes.
const LONGEST: Duration = Duration::from_secs(60);

/// Flags of `probe`.
#[derive(Debug, Clone, Args)]
pub struct ProbeArgs {
    /// Target: HOST:PORT, an IPv6 address in brackets.
    #[arg(value_name = "HOST:PORT")]
    target: String,

    /// Whether to try TLS on the connection.
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    tls: TlsMode,

    /// Limit of the dial, and again of TLS; at most 1m.
    #[arg(long, value_name = "DURATION", value_parser = limit, default_value = "10s")]
    timeout: Duration,

    #[command(flatten)]
    common: CommonArgs,
}

fn limit(text: &str) -> Result<Duration, String> {
    match go_duration(text)? {
        Duration::ZERO => Err("must not be 0".to_owned()),
        limit if limit > LONGEST => Err("must be at most 1m".to_owned()),
        limit => Ok(limit),
    }
}

impl ProbeArgs {
    pub(super) async fn run(self, program: Program) -> Health {
        let client = self.common.client(program);
        let request = ProbeRequest {
            target: self.target.clone(),
            tls: self.tls,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
        };
        let look = async || match client.probe(&request).await {
            Ok(report) => Shown::of(report),
            Err(error) => {
                let (kind, text) = ("no_answer".to_owned(), error.to_string());
                let failure = Failure { stage: "ask".to_owned(), kind, text, health: Health::Down };
                let report = ProbeReport { target: self.target.clone(), ..ProbeReport::default() };
                let next = Some(remedy(program, &error));
                Shown { next, ..Shown::of(ProbeReport { failure: Some(failure), ..report }) }
            }
        };
        self.common.look(look).await
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    health: Health,
    #[serde(flatten)]
    report: ProbeReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Shown {
    fn of(report: ProbeReport) -> Self {
        let health = report.failure.as_ref().map_or(Health::Ok, |failure| failure.health);
        Self { health, next: next(&report), report }
    }

    fn painted(&self, paint: Paint) -> String {
        let report = &self.report;
        let took = |micros: &Option<u64>| micros.map_or_else(String::new, millis);
        let cells = |stage: &Stage| vec![stage.name.clone(), stage.detail.clone(), took(&stage.took_us)];
        let mut rows: Vec<_> = report.stages.iter().map(cells).collect();
        let verdict = if report.failure.is_some() { "failed" } else { "ok" };
        let total = format!("{}  {}", millis(report.total_us), paint.health(self.health, verdict));
        rows.push(vec!["total".to_owned(), String::new(), total]);
        let mut text = table(&[], rows);
        if let Some(Failure { stage, kind, text: why, health }) = &report.failure {
            text += &format!("{}: {why}\n", paint.health(*health, &format!("{stage}: {kind}")));
        }
        if let Some(certificate) = &report.certificate {
            let rows = [
                ("subject", certificate.subject.clone()),
                ("names", certificate.names.join(", ")),
                ("issuer", certificate.issuer.clone()),
                ("expiry", format!("{}, {}", certificate.not_after, ago(certificate.left))),
            ];
            text += "certificate, not verified:\n";
            text += &table(&[], rows.map(|(what, value)| vec![format!("  {what}"), value]));
        }
        if let Some(next) = &self.next {
            text += &format!("next: {next}\n");
        }
        text
    }
}

/// The next thing to look at, by the stage and kind of the failure.
fn next(report: &ProbeReport) -> Option<String> {
    let Failure { stage, kind, .. } = report.failure.as_ref()?;
    let text = match (stage.as_str(), kind.as_str()) {
        (_, "no_agent") => "tunnel-server status",
        (_, "agent_lost" | "agent_busy") => "tunnel-agent status, on that node",
        (_, "refused") => "see whether a process listens there: its port is closed",
        (_, "timeout" | "unreachable") => {
            "tunnel-agent probe from that node; check routes and firewalls there"
        }
        (_, "forbidden") => "policy check, with the --policy-file of the program that refused",
        (_, "dns") => "check the name, and the resolver of the agent's host or pod",
        ("tls", "expired") => "renew the target's certificate",
        _ => return None,
    };
    Some(text.to_owned())
}

impl View for Shown {
    fn health(&self) -> Health {
        self.health
    }

    fn fault(&self) -> String {
        self.report.failure.as_ref().map_or_else(String::new, |failure| failure.text.clone())
    }

    fn text(&self) -> String {
        self.painted(Paint::of_stdout())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Certificate;

    fn report() -> ProbeReport {
        let stage = |name: &str, detail: &str, took| Stage {
            name: name.to_owned(),
            detail: detail.to_owned(),
            took_us: took,
        };
        ProbeReport {
            target: "10.0.3.7:10250".to_owned(),
            from: "cp-1".to_owned(),
            stages: vec![stage("route", "worker-7 (destHost)", Some(20)), stage("open", "quic", Some(100))],
            total_us: 2830,
            ..ProbeReport::default()
        }
    }

    #[test]
    fn stages_stand_under_each_other() {
        let certificate = Certificate { subject: "CN=worker-7".to_owned(), ..Certificate::default() };
        let text =
            Shown::of(ProbeReport { certificate: Some(certificate), ..report() }).painted(Paint::plain());
        let expected = "route  worker-7 (destHost)  0.02ms
open   quic                 0.10ms
total                       2.83ms  ok
certificate, not verified:
  subject  CN=worker-7
";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn a_failure_is_named_with_its_remedy_and_decides_the_exit_code() {
        let failure = Failure {
            stage: "dial".to_owned(),
            kind: "refused".to_owned(),
            text: "dial tcp 10.0.3.7:10250: connect: connection refused".to_owned(),
            health: Health::Down,
        };
        let shown = Shown::of(ProbeReport { failure: Some(failure), ..report() });
        let text = shown.painted(Paint::plain());
        assert!(
            text.contains("\ndial: refused: dial tcp 10.0.3.7:10250: connect: connection refused\n"),
            "{text}"
        );
        assert!(text.contains("2.83ms  failed\n"), "{text}");
        assert!(text.contains("\nnext: see whether a process listens there"), "{text}");
        assert_eq!(shown.health().exit_code(), 2);
        let json: serde_json::Value = serde_json::from_str(&shown.json()).unwrap();
        assert_eq!((&json["health"], &json["failure"]["kind"]), (&"down".into(), &"refused".into()));
        assert_eq!(json["stages"][0]["took_us"], 20);
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit("60s"), Ok(LONGEST));
        assert!(limit("0").is_err() && limit("61s").is_err());
    }
}
