//! The policy of destinations, for each address of a target.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::debug;
use tunnel_policy::{Gate, Subject};
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::Target;

use crate::config::Config;
use crate::metrics::Metrics;

/// The destinations that this agent dials.
pub(crate) struct Permits {
    policy: Arc<Gate>,
    agent_id: Box<str>,
    metrics: Metrics,
}

impl Permits {
    pub(crate) fn new(config: &Config, metrics: &Metrics) -> Self {
        let (policy, agent_id) = (Arc::clone(&config.policy), config.agent_id.as_str().into());
        Self { policy, agent_id, metrics: metrics.clone() }
    }

    /// Those of a target's addresses that may be dialled, in their order. `server` is the name in
    /// the certificate of the server that asks.
    ///
    /// # Errors
    /// With the rule that refuses the first of them, if none is left. It is counted and audited.
    pub(crate) fn check(
        &self,
        server: Option<&str>,
        target: &Target,
        mut addrs: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let (subject, mut first) = (Subject { identity: server, also: &[] }, None);
        addrs.retain(|addr| match self.policy.check(subject, target, Some(addr.ip())) {
            Ok(()) => true,
            Err(denied) => {
                debug!(%target, %addr, rule = denied.rule, "address denied by policy");
                first.get_or_insert(denied);
                false
            }
        });
        let Some(denied) = first.filter(|_| addrs.is_empty()) else { return Ok(addrs) };
        self.policy.audit(&denied, subject, Some(&self.agent_id));
        self.metrics.denied(&denied.rule);
        Err(Refusal { kind: RefusalKind::Forbidden, text: denied.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::Registry;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::dial::{connect_resolved, resolve_with};

    fn permits(policy: &str) -> Permits {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        Permits { policy: Gate::new(policy.parse().unwrap()), agent_id: "a".into(), metrics }
    }

    const NO_LOOPBACK_2: &str = "
default: allow
rules:
  - {name: second, action: deny, to: [127.0.0.2/32]}
  - {name: names, action: allow, to: [both.example]}
  - {name: mine, action: deny, to: [10.0.0.1], identities: [tenant-*]}
";

    #[tokio::test]
    async fn a_name_with_a_forbidden_and_an_allowed_address_is_dialled_at_the_allowed_one_after_one_look_up()
    {
        let permits = permits(NO_LOOPBACK_2);
        // A port that is free on one address may be taken on the other.
        let (forbidden, allowed, port) = loop {
            let forbidden = TcpListener::bind("127.0.0.2:0").await.unwrap();
            let port = forbidden.local_addr().unwrap().port();
            if let Ok(allowed) = TcpListener::bind(("127.0.0.1", port)).await {
                break (forbidden, allowed, port);
            }
        };
        let target: Target = format!("both.example:{port}").parse().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // The link-local one would time out if it were dialled.
        let answer = ["127.0.0.2", "169.254.169.254", "::ffff:127.0.0.2", "127.0.0.1"];
        let mut lookups = 0;
        let lookup = async |name: &str, port| {
            lookups += 1;
            assert_eq!(name, "both.example");
            Ok(answer.map(|ip| SocketAddr::new(ip.parse().unwrap(), port)).to_vec())
        };
        let addrs = resolve_with(lookup, &target, deadline).await.unwrap();
        let addrs = permits.check(None, &target, addrs).unwrap();
        let (stream, at) = connect_resolved(&target, &addrs, deadline).await.unwrap();
        assert_eq!((at.to_string(), stream.peer_addr().unwrap()), (format!("127.0.0.1:{port}"), at));
        assert_eq!(lookups, 1);
        allowed.accept().await.unwrap();
        let missed = tokio::time::timeout(Duration::from_millis(50), forbidden.accept()).await;
        assert!(missed.is_err(), "the forbidden address was dialled");
    }

    #[test]
    fn a_target_without_an_allowed_address_is_refused_by_the_first_ones_rule() {
        let permits = permits(NO_LOOPBACK_2);
        let check = |target: &str, server, addrs: &[&str]| {
            let target: Target = target.parse().unwrap();
            let addrs = addrs.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), target.port()));
            permits.check(server, &target, addrs.collect())
        };
        let refusal = check("both.example:80", None, &["127.0.0.2", "169.254.169.254"]).unwrap_err();
        let text = "denied by policy rule \"second\": both.example:80".to_owned();
        assert_eq!(refusal, Refusal { kind: RefusalKind::Forbidden, text });
        let refusal = check("169.254.169.254:80", None, &["169.254.169.254"]).unwrap_err();
        assert_eq!(refusal.text, "denied by policy rule \"builtin/metadata\": 169.254.169.254:80");
        assert!(check("10.0.0.1:80", Some("tenant-1.example"), &["10.0.0.1"]).is_err());
        assert!(check("10.0.0.1:80", Some("cp-1.example"), &["10.0.0.1"]).is_ok());
        assert!(check("nowhere.example:80", None, &[]).unwrap().is_empty());
    }
}
