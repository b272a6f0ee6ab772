//! The server reads its files again while it runs, and puts changed ones in use.

use tunnel::tls::{Kept, Listening};
use tunnel_kube::{AccessError, Cluster};
use tunnel_operate::certificate::{Files, kubeconfig_ends};
use tunnel_policy::Policy;
use tunnel_program::renewal::Renewal;

use crate::agents::{IdentityMap, Registry, Trust};
use crate::config::Config;

/// Follows the files of both listeners, of the policy and of the map of identities. Needs a runtime.
pub(crate) fn follow(renewal: &Renewal, config: &Config, registry: &Registry, trust: &Trust) {
    follow_tls(renewal, &config.agent_tls, &config.certificates);
    if let Some((_, tls)) = &config.tcp {
        follow_tls(renewal, tls, &config.certificates);
    }
    if let Some(path) = config.policy_file.clone() {
        let gate = config.policy.clone();
        renewal.follow("policy-file", vec![path.clone()], move || {
            Policy::read(&path).map(|new| gate.replace(new))
        });
    }
    if let Some(path) = config.identity_map.clone() {
        let (registry, trust) = (registry.clone(), trust.clone());
        renewal.follow("identity-map", vec![path.clone()], move || {
            trust.remap(IdentityMap::read(&path).map_err(|error| format!("{}: {error:#}", path.display()))?);
            registry.route_anew(&trust);
            Ok::<_, String>(())
        });
    }
}

fn follow_tls(renewal: &Renewal, tls: &Kept<Listening>, certificates: &Files) {
    for (part, flag, paths) in tls.files().parts() {
        let (tls, certificates, metrics) = (tls.clone(), certificates.clone(), renewal.clone());
        renewal.follow(flag, paths, move || {
            tls.renew(part).map(|()| metrics.expires(flag, certificates.renew(flag)))
        });
    }
}

/// Follows the kubeconfig, if there is one. A pod's service account is followed by the client.
pub(crate) fn follow_kubeconfig(renewal: &Renewal, config: &Config, cluster: &Cluster) {
    let runtime = tokio::runtime::Handle::current();
    let (access, cluster, metrics) = (config.kube.clone(), cluster.clone(), renewal.clone());
    renewal.follow("kubeconfig", access.files(), move || {
        runtime.block_on(access.renew(&cluster))?;
        metrics.expires("kubeconfig", access.kubeconfig.as_deref().and_then(kubeconfig_ends));
        Ok::<_, AccessError>(())
    });
}
