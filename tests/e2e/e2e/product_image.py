"""The agent as users install it: the image of deploy/images and the pod of deploy/manifests.

No controllers run here, so the pod of the DaemonSet is created as a pod, and so is the ConfigMap with the cluster's CA.
The server runs on the control plane's side, with the certificate of the kube-apiserver and the user and rights that the
manifests give it.
"""

import json
import os

from . import kubeconfig, objects, wait
from .cluster import NODE
from .fail import expect
from .shell import run

DEPLOY = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "deploy"))
NAMESPACE, USER, AUDIENCE = "tunnel-system", "system:konnectivity-server", "system:konnectivity-server"
LIMIT = 60
# The API keeps a deleted pod until its finalizers are removed. Without one, the exit code is there for a moment only.
FINALIZER = "tunnel.test/exit-code"


def scenario(world):
    cluster = world.cluster
    kubectl = cluster.kubectl(cluster.frontends[0])
    configure(world)
    world.server.start()
    world.server.wait_up()
    check = world.report.check
    check("image", "the images are built and imported", lambda: load(cluster, world.chosen.bin_dir))
    check("image", "the cluster takes the manifests", lambda: _apply(kubectl, cluster.pki.cluster.certificate))
    check("image", "the agent's pod becomes ready", lambda: _start(kubectl, cluster.network, world.server))
    check("image", "kubectl logs goes through it", lambda: _logs(world, kubectl))
    check("image", "the server publishes its Lease in the namespace", lambda: _lease(kubectl))
    check("image", "the pod ends within its grace period", lambda: _end(kubectl))
    world.server.process.end()


def configure(world, namespace=NAMESPACE):
    """The server's flags as the static pod has them, with the rights that the manifests grant in the namespace."""
    pki = world.cluster.pki
    certificate, key = pki.apiserver
    credentials = kubeconfig.write(
        os.path.join(world.cluster.directory, "tunnel-server-user.conf"), next(iter(world.cluster.apis.values())).url,
        pki.cluster.certificate, *pki.cluster.issue("tunnel-server-user", f"/CN={USER}"))
    world.server.authentication = [
        f"--cluster-cert={certificate}", f"--cluster-key={key}", f"--agent-namespace={namespace}",
        "--agent-service-account=tunnel-agent", f"--authentication-audience={AUDIENCE}"]
    world.server.more = [f"--kubeconfig={credentials}", "--enable-lease-controller", f"--lease-namespace={namespace}"]


def build(bin_dir, directory):
    """The archives of both programs' images."""
    run([os.path.join(DEPLOY, "images", "build"), "--programs", bin_dir, "--out", directory], timeout=600)
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(".tar")]


def load(cluster, bin_dir):
    """Builds the images of the programs in `bin_dir`, once for each directory, and imports them."""
    directory = os.path.join(cluster.directory, "images", os.path.abspath(bin_dir).strip("/").replace("/", "-"))
    if not os.path.exists(directory):
        build(bin_dir, directory)
    for archive in sorted(os.listdir(directory)):
        if archive.endswith(".tar"):
            cluster.node.ctr("image", "import", os.path.join(directory, archive))
    listed = [line.split() for line in cluster.node.ctr("image", "ls").stdout.splitlines()]
    return ", ".join(f"{line[0]} {line[3]} {line[4]}" for line in listed if line[0].startswith("localhost/"))


def _apply(kubectl, authority):
    manifest = os.path.join(DEPLOY, "manifests", "tunnel.yaml")
    kubectl.ok("apply", "-f", manifest)
    kubectl.ok("create", "configmap", "kube-root-ca.crt", "-n", NAMESPACE, f"--from-file=ca.crt={authority}")


def _start(kubectl, network, server):
    template = json.loads(kubectl.ok("get", "daemonset", "tunnel-agent", "-n", NAMESPACE, "-o", "json"))["spec"]["template"]
    pod = template["spec"]
    pod["nodeName"] = NODE
    pod["containers"][0]["args"] += [
        f"--proxy-server-host={network.control_plane}", f"--proxy-server-port={server.agent_port}"]
    kubectl.ok("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Pod", "spec": pod,
        "metadata": {"name": "tunnel-agent", "namespace": NAMESPACE, "labels": template["metadata"]["labels"],
                     "finalizers": [FINALIZER]}}))

    def ready():
        status = json.loads(kubectl.ok("get", "pod", "tunnel-agent", "-n", NAMESPACE, "-o", "json"))["status"]
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        return conditions.get("Ready") == "True"

    wait.until("the pod is ready", ready, LIMIT, pause=0.5)
    expect(server.health("/readyz") == 200, "the pod is ready, and the server has no agent")


def _logs(world, kubectl):
    for ctx in world.contexts:
        lines = ctx.kubectl.ok("logs", "box").splitlines()
        expect(lines == objects.FIRST_LINES, f"{ctx.frontend}: {len(lines)} lines, {len(objects.FIRST_LINES)} were printed")
    own = kubectl.ok("logs", "tunnel-agent", "-n", NAMESPACE)
    expect(own, "the agent's own log is empty")
    return f"on {', '.join(ctx.frontend for ctx in world.contexts)}"


def _lease(kubectl):
    return wait.until("the Lease is there", lambda: kubectl.ok("get", "leases", "-n", NAMESPACE, "-o", "name").strip(), 20)


def _end(kubectl):
    """Connections that the kube-apiserver keeps open last for the whole grace period. Beyond it the kubelet kills."""
    kubectl.ok("delete", "pod", "tunnel-agent", "-n", NAMESPACE, "--wait=false")

    def ended():
        found = kubectl.ok("get", "pod", "tunnel-agent", "-n", NAMESPACE, "-o", "json")
        [container] = json.loads(found)["status"]["containerStatuses"]
        return container["state"].get("terminated")

    code = wait.until("the agent ends", ended, LIMIT, pause=0.5)["exitCode"]
    kubectl.ok("patch", "pod", "tunnel-agent", "-n", NAMESPACE, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    expect(code == 0, f"the agent ended with {code}")
    wait.until("the pod is gone", lambda: not kubectl.ok("get", "pods", "-n", NAMESPACE, "-o", "name"), LIMIT, pause=0.5)
