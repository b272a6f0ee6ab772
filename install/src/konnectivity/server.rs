//! The static pod of Konnectivity's server.

use serde_json::{Value, json};
use tunnel_operate::Program;

use crate::apiserver::{flag, list};
use crate::fault::Fault;
use crate::host::Host;
use crate::manifests::Images;
use crate::yaml;

/// Volume with the admin socket, which Konnectivity has not.
const VOLUME: &str = "tunnel-server-admin";

/// Its directory, on the host and in the pod.
const ADMIN: &str = "/run/tunnel-server";

/// The server's static pod.
#[derive(Debug)]
pub(crate) struct Found {
    /// The manifest.
    pub(crate) name: String,
    pod: Value,
    container: usize,
}

/// Finds the static pod that listens on the Unix socket of an egress configuration.
///
/// # Errors
/// When there is none.
pub(crate) fn find(host: &Host, egress: &str) -> Result<Found, Fault> {
    let by_hand = |what: String| Fault::new(what, "change the images as docs/MIGRATION.md says");
    let text = host
        .read(egress)?
        .ok_or_else(|| by_hand(format!("the egress configuration {egress} is not on this host")))?;
    let value = yaml::parse(egress, &text)?;
    let selections = value["egressSelections"].as_array().into_iter().flatten();
    let cluster = selections
        .into_iter()
        .find(|each| each["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case("cluster")));
    let socket = cluster.and_then(|cluster| cluster.pointer("/connection/transport/uds/udsName")?.as_str());
    let socket =
        socket.ok_or_else(|| by_hand(format!("{egress} has no Unix socket for the cluster's traffic")))?;
    for name in host.manifests()? {
        let Some(text) = host.read(&name)? else { continue };
        let Ok(pod) = yaml::parse(&name, &text) else { continue };
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
        let container = containers
            .into_iter()
            .position(|container| flag(words(container).into_iter(), "uds-name") == Some(socket));
        if let Some(container) = container {
            return Ok(Found { name, pod, container });
        }
    }
    Err(by_hand(format!("no static pod listens on {socket}, the socket of {egress}")))
}

/// Command and arguments of a container.
fn words(container: &Value) -> Vec<&str> {
    let list = |key: &str| container[key].as_array().into_iter().flatten().filter_map(Value::as_str);
    list("command").chain(list("args")).collect()
}

impl Found {
    /// The manifest with our image and an admin socket.
    ///
    /// # Errors
    /// When the container does not run the server itself.
    pub(crate) fn moved(&self, images: &Images) -> Result<String, Fault> {
        let mut pod = self.pod.clone();
        let path = format!("/spec/containers/{}", self.container);
        let Some(container) = pod.pointer_mut(&path) else { return Ok(yaml::render(&pod)) };
        let program = container.pointer("/command/0").and_then(Value::as_str);
        let known =
            |program: &str| matches!(program.rsplit('/').next(), Some("proxy-server" | "tunnel-server"));
        if !program.is_none_or(known) {
            return Err(Fault::new(
                format!(
                    "{} runs {program:?}, and the image has neither a shell nor other programs",
                    self.name
                ),
                "change the command to /proxy-server with its flags",
            ));
        }
        container["image"] = json!(images.of("tunnel-server"));
        container["imagePullPolicy"] = json!("IfNotPresent");
        let key = if container["args"].is_array() { "args" } else { "command" };
        let socket = format!("--admin-socket={}", Program::Server.socket());
        if let Some(args) = list(container, "", key).filter(|args| !args.contains(&json!(socket))) {
            args.push(json!(socket));
        }
        // Konnectivity's image runs as root, which may read the kube-apiserver's key; ours does not.
        let user = self.pod.pointer("/spec/securityContext/runAsUser");
        if user.is_none() && container.pointer("/securityContext/runAsUser").is_none() {
            container["securityContext"]["runAsUser"] = json!(0);
        }
        for (parent, key, entry) in [
            (path.as_str(), "volumeMounts", json!({"name": VOLUME, "mountPath": ADMIN})),
            (
                "/spec",
                "volumes",
                json!({"name": VOLUME, "hostPath": {"path": ADMIN, "type": "DirectoryOrCreate"}}),
            ),
        ] {
            if let Some(entries) = list(&mut pod, parent, key).filter(|entries| !entries.contains(&entry)) {
                entries.push(entry);
            }
        }
        Ok(yaml::render(&pod))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EGRESS: &str = "/etc/kubernetes/konnectivity/egress.yaml";
    const MANIFEST: &str = "/etc/kubernetes/manifests/konnectivity-server.yaml";

    fn host(directory: &std::path::Path) -> Host {
        let host = Host::new(directory);
        host.write(EGRESS, include_str!("../fixtures/konnectivity-egress.yaml"), 0o644).unwrap();
        host.write(MANIFEST, include_str!("../fixtures/konnectivity-server.yaml"), 0o600).unwrap();
        host.write(crate::host::APISERVER, include_str!("../fixtures/kube-apiserver.yaml"), 0o600).unwrap();
        host
    }

    fn images() -> Images {
        Images { repository: "registry.example".to_owned(), tag: "1".to_owned() }
    }

    #[test]
    fn the_server_is_found_by_its_socket_and_keeps_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path());
        let found = find(&host, EGRESS).unwrap();
        assert_eq!(found.name, MANIFEST);
        let moved = found.moved(&images()).unwrap();
        let pod = yaml::parse("moved", &moved).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example/tunnel-server:1");
        assert_eq!(container["command"], json!(["/proxy-server"]));
        assert_eq!(container["securityContext"]["runAsUser"], 0);
        let before = yaml::parse("before", &host.read(MANIFEST).unwrap().unwrap()).unwrap();
        let flags = before["spec"]["containers"][0]["args"].as_array().unwrap();
        assert_eq!(container["args"].as_array().unwrap()[..flags.len()], flags[..]);
        // Again, as after an interruption.
        host.write(MANIFEST, &moved, 0o600).unwrap();
        assert_eq!(find(&host, EGRESS).unwrap().moved(&images()).unwrap(), moved);
    }

    #[test]
    fn a_shell_and_a_socket_without_a_server_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let host = host(dir.path());
        let text = host.read(MANIFEST).unwrap().unwrap();
        host.write(MANIFEST, &text.replace("[\"/proxy-server\"]", "[\"/bin/sh\"]"), 0o600).unwrap();
        let error = find(&host, EGRESS).unwrap().moved(&images()).unwrap_err().to_string();
        assert!(error.contains("/bin/sh") && error.contains("neither a shell"), "{error}");
        host.remove(MANIFEST).unwrap();
        let error = find(&host, EGRESS).unwrap_err().to_string();
        assert!(error.contains("no static pod listens on /etc/kubernetes/konnectivity-server/"), "{error}");
        host.write(EGRESS, "egressSelections: []\n", 0o644).unwrap();
        assert!(find(&host, EGRESS).unwrap_err().to_string().contains("no Unix socket"));
    }
}
