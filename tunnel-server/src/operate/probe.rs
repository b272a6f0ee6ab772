//! `probe`: a dial as any other, and TLS through the relay that carries every connection.

use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;
use tunnel::relay::{Meter, Moved, relay};
use tunnel::socket::Socket;
use tunnel_operate::peek::{micros, peek};
use tunnel_operate::report::{Failure, Health, ProbeReport, ProbeRequest, Stage, TlsMode};
use tunnel_proto::target::Target;

use crate::dial::error::DialError;
use crate::dial::{CountedStream, Dialer, Probed};

/// Longest limit of a request, of each of dial and TLS.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) async fn probe(dialer: &Dialer, server_id: &str, request: ProbeRequest) -> ProbeReport {
    let began = Instant::now();
    let limit = Duration::from_millis(request.timeout_ms).min(LONGEST);
    let (target, from) = (request.target.clone(), server_id.to_owned());
    let mut report = ProbeReport { target, from, ..ProbeReport::default() };
    match request.target.parse::<Target>() {
        Err(error) => report.failure = Some(down("target", "bad_request", error.to_string())),
        Ok(target) => match dialer.probe(&target, limit).await {
            Err(error) => {
                let agent = error.agent().and_then(|agent| dialer.explain(agent, &target));
                report.stages.extend(agent.map(|detail| Stage {
                    name: "route".to_owned(),
                    detail,
                    took_us: None,
                }));
                report.failure = Some(failed(&error));
            }
            Ok(probed) => {
                report.stages = stages(&probed, server_id, &target);
                if request.tls != TlsMode::Never {
                    tls(probed.stream, &target.host().to_string(), request.tls, limit, &mut report).await;
                }
            }
        },
    }
    report.total_us = micros(began.elapsed());
    report
}

fn failed(error: &DialError) -> Failure {
    let stage = match error {
        DialError::Denied(_) => "policy",
        DialError::NoAgent { .. } | DialError::NoneServes { .. } => "route",
        DialError::AgentLost { .. }
        | DialError::AgentBusy { .. }
        | DialError::Refused { .. }
        | DialError::Timeout { .. }
        | DialError::BadAnswer { .. } => "dial",
    };
    down(stage, error.label(), error.to_string())
}

fn down(stage: &str, kind: &str, text: String) -> Failure {
    Failure { stage: stage.to_owned(), kind: kind.to_owned(), text, health: Health::Down }
}

fn stages(probed: &Probed, server_id: &str, target: &Target) -> Vec<Stage> {
    let stage = |name: &str, detail: String, took: Duration| Stage {
        name: name.to_owned(),
        detail,
        took_us: Some(micros(took)),
    };
    let agent = &probed.agent;
    let link = probed.stream.stream.link().label();
    let at = probed.address.clone().unwrap_or_else(|| target.to_string());
    let mut stages = vec![
        stage("route", format!("{} ({})", agent.id, probed.why), probed.route),
        stage("open", format!("{link} stream on {server_id}"), probed.open),
    ];
    match probed.connect {
        Some(connect) => {
            let travel = probed.answer.saturating_sub(connect);
            stages.push(stage("tunnel", "to the agent and back".to_owned(), travel));
            stages.push(stage("connect", format!("agent → {at}"), connect));
        }
        None => stages.push(stage("dial", format!("agent → {at}, tunnel included"), probed.answer)),
    }
    stages
}

async fn tls(
    mut counted: CountedStream,
    host: &str,
    mode: TlsMode,
    limit: Duration,
    report: &mut ProbeReport,
) {
    let (ours, theirs) = match UnixStream::pair() {
        Ok(pair) => pair,
        Err(error) => {
            report.failure = Some(down("tls", "failed", error.to_string()));
            return;
        }
    };
    let (mut near, meter, mut moved) = (Socket::from(theirs), Meter::default(), Moved::default());
    let carried = async {
        relay(&mut near, &mut counted.stream, None, &meter, &mut moved).await;
        // The handshake still has to read the end.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = peek(ours, host, mode, limit, report) => {}
        () = Box::pin(carried) => {}
    }
}
