//! T110 to T119: the kube-apiserver and the kubelets, of whose quarrels people suspect the tunnel.

use std::net::IpAddr;

use super::control_plane::{either, manifest, server};
use super::facts::{Facts, Kubelet};
use super::finding::Finding;

/// kube-apiserver's default of `--kubelet-preferred-address-types`.
const ADDRESS_TYPES: &str = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP";

pub(super) fn are_verified(facts: &Facts) -> Finding {
    either(manifest(facts).map(|manifest| match manifest.flag("kubelet-certificate-authority") {
        Some(file) => Finding::ok(format!("the kube-apiserver verifies kubelets by {file}")),
        None => Finding::warn(
            "the kube-apiserver does not verify kubelets: whoever can redirect a connection reads logs and exec",
            "give it --kubelet-certificate-authority, and kubelets certificates of that CA (serverTLSBootstrap)",
        ),
    }))
}

/// The kubelets that answered or should have.
fn kubelets(facts: &Facts) -> Result<&[Kubelet], Finding> {
    match &facts.kubelets {
        Ok(kubelets) if kubelets.is_empty() => {
            Err(Finding::skip("no connected agent names a node's address among its identifiers"))
        }
        Ok(kubelets) => Ok(kubelets),
        Err(why) => Err(Finding::skip(why.clone())),
    }
}

pub(super) fn authorise(facts: &Facts) -> Finding {
    let authorise = || {
        let manifest = manifest(facts)?;
        if manifest.flag("kubelet-client-certificate").is_none() {
            return Ok(Finding::fail(
                "the kube-apiserver has no --kubelet-client-certificate: kubelets answer Unauthorized",
                "give it --kubelet-client-certificate and --kubelet-client-key",
            ));
        }
        let kubelets = kubelets(facts)?;
        let with = |wanted: u16| kubelets.iter().find(|kubelet| kubelet.answer == Ok(wanted));
        let unreached: Vec<_> =
            kubelets.iter().filter_map(|kubelet| Some((kubelet, kubelet.answer.as_ref().err()?))).collect();
        let of = kubelets.len();
        let user = facts.kubelet_user.as_deref().unwrap_or("NAME");
        Ok(if let Some(kubelet) = with(403) {
            Finding::fail(
                format!(
                    "the kubelet {} forbids {user}, the kube-apiserver's client certificate (403)",
                    kubelet.target
                ),
                format!(
                    "kubectl create clusterrolebinding apiserver-kubelet --clusterrole=system:kubelet-api-admin \
                     --user={user}"
                ),
            )
        } else if let Some(kubelet) = with(401) {
            Finding::fail(
                format!(
                    "the kubelet {} does not know the kube-apiserver's client certificate (401)",
                    kubelet.target
                ),
                "give kubelets the CA of --kubelet-client-certificate (authentication.x509.clientCAFile)",
            )
        } else if let Some((kubelet, why)) = unreached.first() {
            let text = format!(
                "{} of {of} kubelets do not answer through the tunnel: {}: {why}",
                unreached.len(),
                kubelet.target
            );
            let fix = format!("tunnel-server probe {}", kubelet.target);
            if unreached.len() == of { Finding::down(text, fix) } else { Finding::fail(text, fix) }
        } else {
            Finding::ok(format!("{of} kubelets accept the kube-apiserver's client certificate"))
        })
    };
    either(authorise())
}

pub(super) fn are_trusted(facts: &Facts) -> Finding {
    let trusted = || {
        let kubelets = kubelets(facts)?;
        let bad = |kubelet: &&Kubelet| kubelet.trusted.is_err() && kubelet.answer.is_ok();
        if manifest(facts)?.flag("kubelet-certificate-authority").is_none() {
            return Ok(Finding::skip("the kube-apiserver verifies no kubelet (T110)"));
        }
        let answered = kubelets.iter().filter(|kubelet| kubelet.answer.is_ok()).count();
        Ok(match kubelets.iter().find(bad) {
            Some(Kubelet { target, trusted: Err(why), .. }) => Finding::fail(
                format!("the kube-apiserver does not trust the kubelet {target}: {why}"),
                "give that kubelet a certificate of --kubelet-certificate-authority for its address \
                 (serverTLSBootstrap: true, and approve its request: kubectl get csr)",
            ),
            Some(_) | None if answered == 0 => Finding::skip("no kubelet answered (T111)"),
            Some(_) | None => Finding::ok(format!("the certificates of {answered} kubelets are trusted")),
        })
    };
    either(trusted())
}

pub(super) fn addresses_are_served(facts: &Facts) -> Finding {
    let served = || {
        let (manifest, server) = (manifest(facts)?, server(facts)?);
        let types = manifest.flag("kubelet-preferred-address-types").unwrap_or(ADDRESS_TYPES);
        let first = types.split(',').next().unwrap_or_default().trim();
        let wants_address = first.ends_with("IP");
        let is_address = |host: &String| host.parse::<IpAddr>().is_ok();
        let hosts: Vec<_> = server.connected.iter().flat_map(|agent| &agent.hosts).collect();
        if hosts.is_empty() && !server.strategies.iter().all(|one| one == "destHost") {
            return Ok(Finding::ok(format!(
                "agents are not chosen by host ({})",
                server.strategies.join(",")
            )));
        }
        if hosts.is_empty() {
            return Ok(Finding::skip("no agent with a name or an address is connected"));
        }
        let kind = if wants_address { "an address" } else { "a name" };
        if hosts.iter().any(|host| is_address(host) == wants_address) {
            return Ok(Finding::ok(format!("the kube-apiserver asks for {first}, and agents serve {kind}")));
        }
        let only_hosts = !server.strategies.iter().any(|one| one == "default" || one == "defaultRoute");
        let detail = format!("the kube-apiserver asks for {first}, and no agent serves {kind}");
        let fix = "give the kube-apiserver --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname, or \
                   agents --agent-identifiers with host=$(NODE_NAME)&ipv4=$(NODE_IP)";
        Ok(if only_hosts { Finding::down(detail, fix) } else { Finding::warn(detail, fix) })
    };
    either(served())
}
