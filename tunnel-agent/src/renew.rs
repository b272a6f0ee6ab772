//! The agent reads its files again while it runs, and puts changed ones in use.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tunnel_kube::review::Claims;
use tunnel_policy::Policy;
use tunnel_program::renewal::Renewal;

use crate::config::Config;
use crate::connect::read_token;

/// The end of a token in seconds since 1970, if it has one.
fn end_of(token: &str) -> Option<i64> {
    let now = SystemTime::now();
    let end = now.checked_add(Claims::read(token).ok()?.lasts(now)?)?;
    Some(end.duration_since(UNIX_EPOCH).ok()?.as_secs().cast_signed())
}

/// Follows the files of TLS, policy and token. Returns the token, if there is one. Needs a runtime.
pub(crate) fn follow(renewal: &Renewal, config: &Config) -> Option<watch::Receiver<Arc<str>>> {
    for (part, flag, paths) in config.tls_files.files().parts() {
        let (tls, certificates) = (config.tls_files.clone(), config.certificates.clone());
        let metrics = renewal.clone();
        renewal.follow(flag, paths, move || {
            tls.renew(part).map(|()| metrics.expires(flag, certificates.renew(flag)))
        });
    }
    if let Some(path) = config.policy_file.clone() {
        let gate = Arc::clone(&config.policy);
        renewal.follow("policy-file", vec![path.clone()], move || {
            Policy::read(&path).map(|new| gate.replace(new))
        });
    }
    let path = config.token_path.clone()?;
    let (tokens, renewed) = watch::channel(Arc::from(""));
    let metrics = renewal.clone();
    renewal.follow("service-account-token-path", vec![path.clone()], move || {
        let token = read_token(&path)?;
        metrics.expires("service-account-token-path", end_of(&token));
        tokens.send_replace(token.into());
        Ok::<_, String>(())
    });
    Some(renewed)
}
