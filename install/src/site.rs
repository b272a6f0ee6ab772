//! The node and the cluster as they are found, and the checks before any change.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tunnel_operate::certificate;

use crate::activation;
use crate::apiserver::{ApiServer, EGRESS_FLAG};
use crate::cluster::Cluster;
use crate::clusterconfig::ClusterConfiguration;
use crate::fault::Fault;
use crate::host::{APISERVER_CERTIFICATE, EGRESS, Host};
use crate::say::say;

/// Key of the ClusterConfiguration in kubeadm's ConfigMap.
const CONFIGURATION: &str = "ClusterConfiguration";

/// A control plane node of kubeadm.
pub(crate) struct Site {
    pub(crate) host: Host,
    pub(crate) cluster: Cluster,
    /// This node's kube-apiserver, which `cluster` may reach by a load balancer of several.
    pub(crate) local: Cluster,
    pub(crate) apiserver: ApiServer,
    /// The address by which agents reach this node.
    pub(crate) address: String,
    pub(crate) config_map: Value,
    pub(crate) configuration: ClusterConfiguration,
}

impl Site {
    /// Reads all that an installation needs to know, and checks it.
    ///
    /// # Errors
    /// When something is not as it has to be.
    pub(crate) async fn examine(
        host: Host,
        cluster: Cluster,
        address: Option<String>,
    ) -> Result<Self, Fault> {
        let apiserver = activation::read(&host)?;
        let version = cluster.version().await?;
        say(&format!("ok       kube-apiserver {version} answers"));
        let config_map = cluster.kubeadm_config().await?;
        let text = config_map["data"][CONFIGURATION].as_str();
        let text = text.ok_or_else(|| {
            Fault::new(
                format!("the ConfigMap kube-system/kubeadm-config has no {CONFIGURATION}"),
                "use the Helm chart; this command knows clusters that kubeadm made",
            )
        })?;
        let configuration = ClusterConfiguration::parse(text)?;
        let pod = activation::own_soon(&cluster, &apiserver).await?;
        say(&format!("ok       this is the control plane node {}", pod.pod.node));
        let address = address.or_else(|| endpoint(&apiserver).map(|(address, _)| address));
        let address = address.ok_or_else(|| {
            Fault::new(
                "the kube-apiserver's manifest does not tell its address",
                "give the address by which nodes reach this node with --address",
            )
        })?;
        check_certificate(&host, &address)?;
        let local = apiserver.endpoint().map_or_else(|| Ok(cluster.clone()), |at| cluster.at(at))?;
        Ok(Self { host, cluster, local, apiserver, address, config_map, configuration })
    }

    /// The address and port of this node's kube-apiserver.
    pub(crate) fn endpoint(&self) -> Option<(String, u16)> {
        endpoint(&self.apiserver)
    }

    /// The egress configuration that the kube-apiserver's manifest names.
    pub(crate) fn egress(&self) -> Option<&str> {
        self.apiserver.flag(EGRESS_FLAG)
    }

    /// Whether the manifest names the egress configuration of the tunnel.
    pub(crate) fn is_active(&self) -> bool {
        self.egress() == Some(EGRESS)
    }

    /// kubeadm's ConfigMap with another ClusterConfiguration.
    pub(crate) fn config_map_with(&self, configuration: &ClusterConfiguration) -> Value {
        let mut map = self.config_map.clone();
        map["data"][CONFIGURATION] = json!(configuration.render());
        map
    }
}

fn endpoint(apiserver: &ApiServer) -> Option<(String, u16)> {
    let (address, port) = apiserver.endpoint()?.rsplit_once(':')?;
    Some((address.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// Agents check the server's certificate, which is the kube-apiserver's, against this address.
fn check_certificate(host: &Host, address: &str) -> Result<(), Fault> {
    let path = host.path(APISERVER_CERTIFICATE);
    let failed = |why: String| {
        Fault::new(format!("{APISERVER_CERTIFICATE} is not usable: {why}"), "kubeadm certs check-expiration")
    };
    let der = CertificateDer::from_pem_file(&path).map_err(|error| failed(error.to_string()))?;
    let seen = certificate::describe(&der).map_err(failed)?;
    let names = seen.names.iter().any(|name| match (name.parse::<IpAddr>(), address.parse::<IpAddr>()) {
        (Ok(name), Ok(address)) => name == address,
        _ => name.eq_ignore_ascii_case(address),
    });
    if !names {
        return Err(Fault::new(
            format!("{APISERVER_CERTIFICATE} is for {}, and not for {address}", seen.names.join(", ")),
            "give one of these with --address, or add certSANs to kubeadm's configuration and renew the certificate",
        ));
    }
    if seen.left < 0 {
        return Err(failed(format!("it expired at {}", seen.not_after)));
    }
    say(&format!("ok       the kube-apiserver's certificate, which agents will see, is for {address}"));
    Ok(())
}
