"""The installation that deploy/README.md describes for kubeadm, done by hand with the manifests of deploy/."""

import json
import os
import shutil

from .. import product_image, wait
from . import config
from .cluster import CONTROL_PLANE

NAMESPACE = product_image.NAMESPACE
BASE = os.path.join(product_image.DEPLOY, "kustomize", "base")
STATIC_POD = os.path.join(product_image.DEPLOY, "manifests", "static-pod")
DIRECTORY, MANIFESTS = "/etc/kubernetes/tunnel", "/etc/kubernetes/manifests"
API_SERVER = f"kube-apiserver-{CONTROL_PLANE}"
LIMIT = 180


def import_images(cluster, bin_dir):
    archives = product_image.build(bin_dir, os.path.join(cluster.directory, "images"))
    for archive in archives:
        cluster.import_image(archive)
    return ", ".join(os.path.basename(archive) for archive in archives)


def install(cluster):
    """Agents and the server; the rollout ends when every agent has a tunnel."""
    host = cluster.node(CONTROL_PLANE)
    cluster.kubectl.ok("apply", "-k", _overlay(cluster.directory, f"--proxy-server-host={host.network.node}"))
    os.makedirs(host.seen_from_outside(DIRECTORY))
    write_kubeconfig(cluster, f"{DIRECTORY}/server.conf")
    for name, directory in (("egress.yaml", DIRECTORY), ("policy.yaml", DIRECTORY), ("tunnel-server.yaml", MANIFESTS)):
        shutil.copy(os.path.join(STATIC_POD, name), host.seen_from_outside(directory))
    cluster.kubectl.ok("rollout", "status", "daemonset/tunnel-agent", "-n", NAMESPACE, f"--timeout={LIMIT}s", timeout=LIMIT + 10)


def activate(cluster, api_server=None):
    """The kube-apiserver's manifest and the ConfigMap, of which the next upgrade makes it, get the egress configuration.

    `api_server` is kubeadm's section of that name, with another egress configuration than the tunnel's.
    """
    host = cluster.node(CONTROL_PLANE)
    before = wait.until("the kube-apiserver is ready", lambda: api_server_hash(cluster), LIMIT, pause=0.5)
    file = "/etc/kubernetes/egress-init.yaml"
    with open(host.seen_from_outside(file), "w", encoding="utf-8") as opened:
        opened.write(config.init(cluster.kubernetes.version, host, api_server or _egress()))
    cluster.enter(CONTROL_PLANE, ["kubeadm", "init", "phase", "upload-config", "kubeadm", "--config", file])
    cluster.enter(CONTROL_PLANE, ["kubeadm", "init", "phase", "control-plane", "apiserver", "--config", file])
    wait.until("the kube-apiserver is ready with its new manifest", lambda: api_server_hash(cluster) not in (None, before), LIMIT, pause=0.5)


def write_kubeconfig(cluster, path):
    """The server's, which kubeadm makes."""
    user = cluster.enter(CONTROL_PLANE, [
        "kubeadm", "kubeconfig", "user", f"--client-name={product_image.USER}", "--config=/etc/kubernetes/init.yaml"]).stdout
    with open(cluster.node(CONTROL_PLANE).seen_from_outside(path), "x", encoding="utf-8", opener=_for_root) as file:
        file.write(user)


def agent_on(cluster, node):
    """The name of the node's agent, once it is ready. One that is being replaced stays ready until it ends."""
    def ready():
        found = json.loads(cluster.kubectl.ok(
            "get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=tunnel-agent",
            f"--field-selector=spec.nodeName={node}", "-o", "json"))["items"]
        return [pod["metadata"]["name"] for pod in found if _ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    return wait.until(f"the agent on {node} is ready", ready, LIMIT, pause=0.5)[0]


def _overlay(directory, flag):
    """The base knows no server: an overlay adds its address."""
    path = os.path.join(directory, "overlay")
    os.makedirs(path)
    patch = [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": flag}]
    with open(os.path.join(path, "kustomization.yaml"), "w", encoding="utf-8") as file:
        json.dump({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": [os.path.relpath(BASE, path)],
            "patches": [{"target": {"kind": "DaemonSet", "name": "tunnel-agent"}, "patch": json.dumps(patch)}]}, file)
    return path


def _egress():
    file = f"{DIRECTORY}/egress.yaml"
    return egress(file, {**volume("tunnel-egress", file, "File"), "readOnly": True},
                  volume("tunnel-socket", "/run/tunnel", "DirectoryOrCreate"))


def egress(file, *volumes):
    return {"extraArgs": [{"name": "egress-selector-config-file", "value": file}], "extraVolumes": list(volumes)}


def volume(name, path, kind):
    return {"name": name, "hostPath": path, "mountPath": path, "pathType": kind}


def api_server_hash(cluster):
    """Which manifest the kube-apiserver has that answers, or None while it is not ready."""
    pod = json.loads(cluster.kubectl.ok("get", "pod", API_SERVER, "-n", "kube-system", "-o", "json", timeout=10))
    return pod["metadata"]["annotations"]["kubernetes.io/config.hash"] if _ready(pod) else None


def _ready(pod):
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions", []))


def _for_root(path, flags):
    return os.open(path, flags, 0o600)
