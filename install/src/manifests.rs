//! The manifests of the chart, with the images, the servers' addresses and the port of one
//! installation.

use serde_json::{Value, json};

use crate::apiserver::flag;
use crate::fault::Fault;
use crate::yaml;

const AGENTS: &str = include_str!("../../deploy/manifests/tunnel.yaml");
const SERVER: &str = include_str!("../../deploy/manifests/static-pod/tunnel-server.yaml");

/// The egress configuration of the kube-apiserver.
pub(crate) const EGRESS: &str = include_str!("../../deploy/manifests/static-pod/egress.yaml");

/// The policy of destinations of a server.
pub(crate) const POLICY: &str = include_str!("../../deploy/manifests/static-pod/policy.yaml");

/// Name of the ConfigMap with the agents' policy.
pub(crate) const AGENTS_POLICY: &str = "tunnel-agent-policy";

/// Namespace of everything that is installed in the cluster.
pub(crate) const NAMESPACE: &str = "tunnel-system";

/// Name of the agents' DaemonSet.
pub(crate) const AGENT: &str = "tunnel-agent";

/// The user in the server's certificate for the kube-apiserver.
pub(crate) const USER: &str = "system:konnectivity-server";

/// Annotation of the server's static pod.
pub(crate) const ADDRESS: &str = "tunnel-installer/address";

/// Repository and tag of both images.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    pub(crate) repository: String,
    pub(crate) tag: String,
}

impl Images {
    pub(crate) fn of(&self, program: &str) -> String {
        format!("{}/{program}:{}", self.repository, self.tag)
    }
}

/// The objects of the cluster, the namespace first.
///
/// # Errors
/// Never with the manifests of this build, which a test reads.
pub(crate) fn objects(images: &Images, servers: &[String], port: u16) -> Result<Vec<Value>, Fault> {
    let mut objects = yaml::parse_all("the agents' manifests", AGENTS)?;
    for object in &mut objects {
        if object["kind"] == "DaemonSet" {
            let container = &mut object["spec"]["template"]["spec"]["containers"][0];
            container["image"] = json!(images.of(AGENT));
            let mut args = others(container, &["proxy-server-host", "proxy-server-port"]);
            args.push(json!(format!("--proxy-server-host={}", servers.join(","))));
            args.push(json!(format!("--proxy-server-port={port}")));
            container["args"] = json!(args);
        }
    }
    Ok(objects)
}

/// The server's static pod. Keeps the node's address for the next run.
///
/// # Errors
/// Never with the manifest of this build, which a test reads.
pub(crate) fn server(images: &Images, address: &str, port: u16) -> Result<String, Fault> {
    let mut pod = yaml::parse("the server's manifest", SERVER)?;
    pod["metadata"]["annotations"][ADDRESS] = json!(address);
    let container = &mut pod["spec"]["containers"][0];
    container["image"] = json!(images.of("tunnel-server"));
    let mut args = others(container, &["agent-port"]);
    args.push(json!(format!("--agent-port={port}")));
    container["args"] = json!(args);
    Ok(yaml::render(&pod))
}

/// Choices of an earlier run, which later ones keep.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Earlier {
    pub(crate) repository: Option<String>,
    pub(crate) port: Option<u16>,
    /// The address of this node.
    pub(crate) address: Option<String>,
}

impl Earlier {
    /// From the agents' DaemonSet, and the static pod of this node's server.
    pub(crate) fn read(daemonset: Option<&Value>, server: Option<&Value>) -> Self {
        let container = daemonset.and_then(|daemonset| daemonset.pointer("/spec/template/spec/containers/0"));
        let image = container.and_then(|container| container["image"].as_str());
        let args = container.and_then(|container| container["args"].as_array()).into_iter().flatten();
        let args: Vec<_> = args.filter_map(Value::as_str).collect();
        let port = flag(args.into_iter(), "proxy-server-port").and_then(|port| port.parse().ok());
        let address = server.and_then(|server| server["metadata"]["annotations"][ADDRESS].as_str());
        Self {
            repository: image
                .and_then(|image| image.rsplit_once('/'))
                .map(|(repository, _)| repository.to_owned()),
            port,
            address: address.map(str::to_owned),
        }
    }
}

/// The addresses of servers that a DaemonSet of agents dials.
pub(crate) fn servers_of(daemonset: &Value) -> Vec<String> {
    let args = daemonset.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
    let args: Vec<_> = args.into_iter().flatten().filter_map(Value::as_str).collect();
    let hosts = flag(args.into_iter(), "proxy-server-host").unwrap_or_default();
    hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect()
}

/// The arguments of a container but these.
fn others(container: &Value, names: &[&str]) -> Vec<Value> {
    let is_one = |arg: &str| names.iter().any(|name| flag([arg].into_iter(), name).is_some());
    let args = container["args"].as_array().into_iter().flatten();
    args.filter(|arg| !arg.as_str().is_some_and(is_one)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images { repository: "registry.example/tunnel".to_owned(), tag: "1.2.3".to_owned() }
    }

    #[test]
    fn the_agents_get_the_image_and_the_servers_of_the_installation() {
        let servers = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        let objects = objects(&images(), &servers, 9132).unwrap();
        assert_eq!(objects[0]["kind"], "Namespace");
        assert_eq!(objects[0]["metadata"]["name"], NAMESPACE);
        let [daemonset] =
            &objects.iter().filter(|object| object["kind"] == "DaemonSet").collect::<Vec<_>>()[..]
        else {
            panic!("there is more than one DaemonSet, or none")
        };
        assert_eq!(
            (&daemonset["metadata"]["name"], &daemonset["metadata"]["namespace"]),
            (&json!(AGENT), &json!(NAMESPACE))
        );
        assert_eq!(servers_of(daemonset), servers);
        let container = &daemonset["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example/tunnel/tunnel-agent:1.2.3");
        let args = container["args"].to_string();
        assert!(
            args.contains("--proxy-server-port=9132") && !args.contains("control-plane.example"),
            "{args}"
        );
        assert!(args.contains("--admin-socket="), "kubectl exec … status has no socket: {args}");
        assert!(
            objects.iter().any(|object| object.to_string().contains(USER)),
            "the server's user has no rights"
        );
    }

    #[test]
    fn the_server_gets_the_image_and_the_port_of_the_installation() {
        let text = server(&images(), "10.0.0.1", 9132).unwrap();
        let daemonset =
            objects(&images(), &[], 9132).unwrap().into_iter().find(|object| object["kind"] == "DaemonSet");
        let earlier = Earlier::read(daemonset.as_ref(), Some(&yaml::parse("server", &text).unwrap()));
        let repository = Some("registry.example/tunnel".to_owned());
        assert_eq!(earlier, Earlier { repository, port: Some(9132), address: Some("10.0.0.1".to_owned()) });
        assert_eq!(Earlier::read(None, None), Earlier::default());
        assert!(text.contains("image: registry.example/tunnel/tunnel-server:1.2.3\n"), "{text}");
        assert!(text.contains("- --agent-port=9132\n") && !text.contains("8132"), "{text}");
        assert!(text.contains(&format!("- --kubeconfig={}\n", crate::host::SERVER_KUBECONFIG)), "{text}");
        assert!(
            text.contains("- --admin-socket=/run/tunnel-server/admin.sock\n"),
            "the installer has no socket: {text}"
        );
        assert!(text.contains("- --expected-nodes="), "{text}");
        // Without a port, which is the one of --agent-port.
        assert!(
            text.contains("- --advertise-address=$(HOST_IP)\n") && text.contains("status.hostIP"),
            "{text}"
        );
    }

    #[test]
    fn agents_have_to_prove_their_node_and_claim_nothing() {
        let text = server(&images(), "10.0.0.1", 9132).unwrap();
        for flag in ["--identity-mode=strict", "--routes-from=nodes"] {
            assert!(text.contains(&format!("- {flag}\n")), "{text}");
        }
        assert!(!AGENTS.contains("--agent-identifiers"), "{AGENTS}");
    }

    #[test]
    fn server_and_agents_get_the_same_policy_which_refuses_loopback() {
        let agents = objects(&images(), &[], 9132).unwrap();
        let map = agents.iter().find(|object| object["metadata"]["name"] == AGENTS_POLICY).unwrap();
        let written = map["data"]["policy.yaml"].as_str().unwrap();
        assert!(POLICY.ends_with(written), "{POLICY}\n{written}");
        assert!(SERVER.contains(&format!("--policy-file={}\n", crate::host::POLICY)), "{SERVER}");
        let policy: tunnel_policy::Policy = POLICY.parse().unwrap();
        let allows = |target: &str| policy.decide(Default::default(), &target.parse().unwrap(), None).allow;
        for target in
            ["127.0.0.1:10250", "[::1]:10250", "localhost:80", "[::ffff:127.0.0.1]:80", "169.254.169.254:80"]
        {
            assert!(!allows(target), "{target}");
        }
        for target in ["10.0.0.1:10250", "[fd00::1]:10250", "worker-7:10250", "webhook.ns.svc:443"] {
            assert!(allows(target), "{target}");
        }
    }

    #[test]
    fn the_egress_configuration_names_the_servers_socket() {
        let egress = yaml::parse("egress", EGRESS).unwrap();
        let socket =
            egress.pointer("/egressSelections/0/connection/transport/uds/udsName").unwrap().as_str().unwrap();
        assert!(SERVER.contains(&format!("--uds-name={socket}\n")), "{socket}");
    }
}
