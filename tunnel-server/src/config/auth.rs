//! Authentication of agents: by certificate, by token, or by both.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use tracing::warn;
use tunnel::tls::{self, Identity, Offer, Secret};
use tunnel_kube::Expected;
use tunnel_program::args::given;

use crate::cli::{Cli, TokenArgs};

/// The part of the configuration that is about agents.
pub(super) struct OfAgents {
    pub(super) tls: Arc<rustls::ServerConfig>,
    pub(super) reset_secret: Secret,
    pub(super) tokens: Option<Expected>,
}

/// Refuses a listener without authentication, because agents get the control plane's traffic,
/// unless a flag asks for it by name. With a CA *and* tokens, agents need both.
pub(super) fn of_agents(args: &Cli, offer: &Offer) -> anyhow::Result<OfAgents> {
    let tokens = expected(&args.tokens)?;
    let authorities = given(&args.cluster_ca_cert);
    match (authorities.is_some() || tokens.is_some(), args.tokens.insecure_allow_anonymous_agents) {
        (true, false) => {}
        (true, true) => bail!(
            "--insecure-allow-anonymous-agents contradicts --cluster-ca-cert and --agent-service-account: \
             leave it out, or them"
        ),
        (false, true) => {
            warn!("--insecure-allow-anonymous-agents: whoever reaches the agents' port gets traffic");
        }
        (false, false) => bail!(
            "there is no way to authenticate agents: give --cluster-ca-cert, the CA of the agents' client \
             certificates, or --agent-namespace, --agent-service-account and --authentication-audience, \
             whose tokens they present, or all of them (or, where nobody else can reach the agents' port, \
             --insecure-allow-anonymous-agents)"
        ),
    }
    ensure!(
        given(&args.cluster_cert).is_some() && given(&args.cluster_key).is_some(),
        "the listener of agents needs --cluster-cert and --cluster-key"
    );
    let identity =
        Identity::load(&args.cluster_cert, &args.cluster_key).context("--cluster-cert, --cluster-key")?;
    let authorities = authorities.as_deref().map(tls::load_roots).transpose().context("--cluster-ca-cert")?;
    Ok(OfAgents {
        tls: tls::agent_listener(&identity, authorities, offer)?,
        reset_secret: identity.derived_secret("quic stateless reset"),
        tokens,
    })
}

fn expected(args: &TokenArgs) -> anyhow::Result<Option<Expected>> {
    let flags = [
        ("--agent-namespace", &args.agent_namespace),
        ("--agent-service-account", &args.agent_service_account),
        ("--authentication-audience", &args.authentication_audience),
    ];
    if flags.iter().all(|(_, value)| value.is_empty()) {
        return Ok(None);
    }
    for (flag, value) in flags {
        ensure!(
            !value.is_empty(),
            "authentication of agents by token needs --agent-namespace, --agent-service-account and \
             --authentication-audience: {flag} is missing"
        );
    }
    Ok(Some(Expected {
        namespace: args.agent_namespace.clone(),
        service_account: args.agent_service_account.clone(),
        audience: args.authentication_audience.clone(),
    }))
}
