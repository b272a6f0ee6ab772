//! Authentication of agents: by certificate, by token, or by both.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use tracing::warn;
use tunnel::tls::{Identity, Kept, Listening, Offer, Secret, TlsError, TlsFiles};
use tunnel_kube::Expected;
use tunnel_program::args::given;

use crate::cli::{Cli, TokenArgs};

/// Bytes of a reset key: as many as its hash has.
const RESET_KEY: usize = 32;

/// Bytes of a reset key that are read.
const MAX_RESET_KEY: u64 = 4096;

/// The part of the configuration that is about agents.
pub(super) struct OfAgents {
    pub(super) tls: Kept<Listening>,
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
    ensure!(
        authorities.is_some() || given(&args.renewal.cluster_crl_file).is_none(),
        "--cluster-crl-file has the revocation lists of --cluster-ca-cert, and there is none: give both, or \
         leave --cluster-crl-file out"
    );
    let files = TlsFiles {
        cert: ("cluster-cert", args.cluster_cert.clone()),
        key: ("cluster-key", args.cluster_key.clone()),
        authorities: ("cluster-ca-cert", args.cluster_ca_cert.clone()),
        revoked: ("cluster-crl-file", args.renewal.cluster_crl_file.clone()),
    };
    let offer = offer.clone();
    let tls = Kept::read(files, move |identity, agents| match identity {
        Some(identity) => Listening::for_agents(identity, agents, &offer),
        // Refused above.
        None => Err(TlsError::Config("no certificate".to_owned())),
    })?;
    Ok(OfAgents { tls, reset_secret: reset_secret(args)?, tokens })
}

fn reset_secret(args: &Cli) -> anyhow::Result<Secret> {
    const PURPOSE: &str = "quic stateless reset";
    match given(&args.renewal.quic_reset_key_file) {
        Some(path) => {
            let key =
                reset_key(&path).with_context(|| format!("--quic-reset-key-file={}", path.display()))?;
            Ok(Secret::derived(&key, PURPOSE))
        }
        None => {
            let identity = Identity::load(&args.cluster_cert, &args.cluster_key);
            Ok(identity.context("--cluster-cert, --cluster-key")?.derived_secret(PURPOSE))
        }
    }
}

/// Reads the key of a file, and makes the file if there is none.
fn reset_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let key: [u8; RESET_KEY] = rand::random();
            file.write_all(&key)?;
            Ok(key.to_vec())
        }
        // A file that a Secret mounts is in a directory that takes no other one.
        Err(made) => {
            let mut key = Vec::new();
            let file = match std::fs::File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(made.into()),
                opened => opened?,
            };
            file.take(MAX_RESET_KEY).read_to_end(&mut key)?;
            ensure!(
                key.len() >= RESET_KEY,
                "{} bytes are no secret: give {RESET_KEY} random ones, or no file there",
                key.len()
            );
            Ok(key)
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_reset_key_is_made_once_and_read_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = reset_key(&path).unwrap();
        assert_eq!((key.len(), reset_key(&path).unwrap()), (RESET_KEY, key));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        let refused = reset_key(&path).unwrap_err().to_string();
        assert!(refused.contains("5 bytes are no secret"), "{refused}");
        assert!(reset_key(&dir.path().join("no/such/key")).is_err());
    }
}
