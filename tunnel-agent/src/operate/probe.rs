//! `probe`: the connect of a dial, by the same code, and TLS on the connection.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_operate::peek::{micros, peek};
use tunnel_operate::report::{Failure, Health, ProbeReport, ProbeRequest, Stage};
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::{Host, Target};

use crate::dial::{Permits, connect_resolved, resolve};

/// Longest limit of a request, of each of dial and TLS.
const LONGEST: Duration = Duration::from_secs(60);

pub(super) async fn probe(agent_id: &str, permits: &Permits, request: ProbeRequest) -> ProbeReport {
    let began = Instant::now();
    let (target, from) = (request.target.clone(), agent_id.to_owned());
    let mut report = ProbeReport { target, from, ..ProbeReport::default() };
    if let Err((stage, Refusal { kind, text })) = stages(permits, &request, &mut report).await {
        let (stage, kind) = (stage.to_owned(), kind.label().to_owned());
        report.failure = Some(Failure { stage, kind, text, health: Health::Down });
    }
    report.total_us = micros(began.elapsed());
    report
}

async fn stages(
    permits: &Permits,
    request: &ProbeRequest,
    report: &mut ProbeReport,
) -> Result<(), (&'static str, Refusal)> {
    let target: Target = request.target.parse().map_err(|error: tunnel_proto::target::TargetError| {
        ("target", Refusal { kind: RefusalKind::BadRequest, text: error.to_string() })
    })?;
    let limit = Duration::from_millis(request.timeout_ms).min(LONGEST);
    let deadline = Instant::now() + limit;
    let mut stage = |name: &str, detail: String, began: Instant| {
        let took_us = Some(micros(began.elapsed()));
        report.stages.push(Stage { name: name.to_owned(), detail, took_us });
    };
    let began = Instant::now();
    let addrs = resolve(&target, deadline).await.map_err(|refusal| ("resolve", refusal))?;
    if let Host::Name(name) = target.host() {
        let ips: Vec<_> = addrs.iter().take(4).map(|addr| addr.ip().to_string()).collect();
        stage("resolve", format!("{name} → {}", ips.join(", ")), began);
    }
    let addrs = permits.check(None, &target, addrs).map_err(|refusal| ("policy", refusal))?;
    let began = Instant::now();
    let (tcp, at) =
        connect_resolved(&target, &addrs, deadline).await.map_err(|refusal| ("connect", refusal))?;
    stage("connect", at.to_string(), began);
    peek(tcp, &target.host().to_string(), request.tls, limit, report).await;
    Ok(())
}
