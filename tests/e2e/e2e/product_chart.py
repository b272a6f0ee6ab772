"""The chart as users install it: helm, real controllers and a real scheduler, our images.

The tunnel server runs on the control plane's side, with the certificate of the kube-apiserver and the rights that the
chart gives its user. A second release has its server in a pod of the node. The control plane cannot reach that pod
without a tunnel, so its check ends with an agent that is connected to it.
"""

import json
import os
import shutil
import tempfile

from . import controllers, image, objects, product_image, product_upgrade, wait
from .fail import expect
from .helm import CHART, Helm
from .product_image import DEPLOY
from .shell import run

NAMESPACE, HOSTED = "tunnel-chart", "tunnel-hosted"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
LIMIT = 60
STATUS = ["status", "--wait=20s"]
# A resource that the Prometheus operator would bring.
MONITOR = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
    "spec": {"group": "monitoring.coreos.com", "scope": "Namespaced",
             "names": {"plural": "servicemonitors", "singular": "servicemonitor", "kind": "ServiceMonitor"},
             "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                 "type": "object", "x-kubernetes-preserve-unknown-fields": True}}}]},
}


def scenario(world):
    cluster, check = world.cluster, world.report.check
    kubectl = cluster.kubectl(cluster.frontends[0])
    started = []
    try:
        check("chart", "the cluster takes every manifest and every set of values", lambda: _dry_run(cluster, kubectl))
        started += _control(cluster, kubectl)
        if not check("chart", "helm installs it, and the agents roll out", lambda: _install(world, kubectl)):
            return
        check("chart", "kubectl logs and exec go through it", lambda: _use(world))
        check("chart", "tunnel-agent status through the tunnel", lambda: _agent_status(world, kubectl))
        check("chart", "tunnel-server status expects no other node", lambda: _server_status(world.server))
        helm = Helm(cluster, NAMESPACE)
        check("chart", "helm test", lambda: helm.ok("test", "tunnel", timeout=LIMIT) and None)
        product_upgrade.checks(world, kubectl, helm, NAMESPACE)
        check("chart", "a server in a pod gets an agent", lambda: _hosted(cluster, kubectl))
    finally:
        for process in [*started, world.server.process]:
            process.end()


def _values(server):
    return ["--set", f"agent.servers={{{server.network.control_plane}}},agent.port={server.agent_port}",
            "--set", f"agent.gracePeriodSeconds={product_upgrade.GRACE},test.image={image.KUBECTL}"]


def _start_server(world):
    product_image.configure(world, NAMESPACE)
    world.server.more += [f"--admin-socket={_socket(world.server)}", "--expected-nodes=kubernetes.io/os=linux"]
    world.server.start()
    world.server.wait_up()


def _socket(server):
    return f"{server.socket}.admin"


def _dry_run(cluster, kubectl):
    """Before accounts are admitted: pods of accounts that exist in a dry run only would be refused."""
    kubectl.ok("apply", "-f", "-", stdin=json.dumps(MONITOR))
    for namespace in (NAMESPACE, "tunnel-system"):
        if kubectl.try_("get", "namespace", namespace).returncode != 0:
            kubectl.ok("create", "namespace", namespace)
        kubectl.ok("label", "--overwrite", "namespace", namespace, RESTRICTED)
    kubectl.ok("wait", "--for=condition=Established", "crd/servicemonitors.monitoring.coreos.com", timeout=LIMIT)
    plain = [os.path.join(DEPLOY, "manifests", name) for name in (
        "tunnel.yaml", "server-deployment.yaml", "static-pod/tunnel-server.yaml")]
    counted = sum(len(_apply_dry(kubectl, "-f", path)) for path in plain)
    for overlay in ("base", "overlays/ha", "overlays/host-network"):
        counted += len(_apply_dry(kubectl, "-k", os.path.join(DEPLOY, "kustomize", overlay)))
    helm, folder = Helm(cluster, NAMESPACE), os.path.join(CHART, "ci")
    for name in sorted(os.listdir(folder)):
        text = helm.template("tunnel", os.path.join(folder, name))
        counted += len(_apply_dry(kubectl, "-f", "-", stdin=text))
    return f"{counted} objects"


def _apply_dry(kubectl, *arguments, **how):
    return kubectl.ok("apply", "--dry-run=server", "-o", "name", *arguments, **how).splitlines()


def _control(cluster, kubectl):
    """What `image` left would become real with the controllers."""
    kubectl.ok("delete", "daemonset", "--all", "-n", "tunnel-system")
    kubectl.ok("delete", "pod", objects.GONE, "--ignore-not-found", "--grace-period=0", "--force")
    api = cluster.apis[cluster.frontends[0]]
    api.admit_accounts()
    api.wait_ready(kubectl)
    # What kube-proxy would do, for the pods that use the API.
    cluster.network.translate(cluster.network.kubernetes_service, 443, cluster.network.control_plane, api.port)
    return controllers.start(cluster, kubectl)


def _install(world, kubectl):
    """Two tags: the chart's, and `previous`."""
    cluster, ctr = world.cluster, world.cluster.node.ctr
    with tempfile.NamedTemporaryFile(dir=cluster.directory, suffix=".tar") as archive:
        image.write_program(archive.name, image.KUBECTL, shutil.which(cluster.kubernetes.kubectl))
        ctr("image", "import", archive.name)
    product_image.load(cluster, world.chosen.previous_bin_dir or world.chosen.bin_dir)
    version = product_upgrade.version()
    ctr("image", "tag", "--force", f"localhost/tunnel-agent:{version}", f"localhost/tunnel-agent:{product_upgrade.PREVIOUS}")
    product_image.load(cluster, world.chosen.bin_dir)
    Helm(cluster, NAMESPACE).ok("install", "tunnel", CHART, *_values(world.server))
    _start_server(world)
    kubectl.ok("rollout", "status", "daemonset/tunnel-agent", "-n", NAMESPACE, f"--timeout={LIMIT}s", timeout=LIMIT + 5)
    expect(world.server.health("/readyz") == 200, "the agents are ready, and the server has none")


def _use(world):
    for ctx in world.contexts:
        lines = ctx.kubectl.ok("logs", "box").splitlines()
        expect(lines == objects.FIRST_LINES, f"{ctx.frontend}: {len(lines)} lines, {len(objects.FIRST_LINES)} were printed")
        ctx.kubectl.ok("exec", "box", "--", "echo")
        own = ctx.kubectl.ok("logs", "daemonset/tunnel-agent", "-n", NAMESPACE)
        expect(own, f"{ctx.frontend}: the agent's log is empty")


def _agent_status(world, kubectl):
    [pod] = kubectl.ok("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=tunnel-agent", "-o", "name").split()
    for ctx in world.contexts:
        _status(ctx.kubectl, NAMESPACE, pod, "/tunnel-agent")


def _status(kubectl, namespace, pod, program):
    result = kubectl.try_("exec", "-n", namespace, pod, "--", program, *STATUS)
    expect(result.returncode == 0, f"{program} status: exit code {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout


def _server_status(server):
    """Exit code 0: every expected node has an agent."""
    result = run([server.binary, *STATUS, "--admin-socket", _socket(server)], check=False)
    expect(result.returncode == 0, f"exit code {result.returncode}:\n{result.stdout}{result.stderr}")


def _hosted(cluster, kubectl):
    """A release with `server.kind=Deployment`, whose certificate is for the address of the Service, so agents come last."""
    helm = Helm(cluster, HOSTED)
    kubectl.ok("create", "namespace", HOSTED)
    kubectl.ok("label", "namespace", HOSTED, RESTRICTED)
    values = ["--set", "server.kind=Deployment,server.deployment.replicas=1,server.deployment.service.type=ClusterIP"]
    helm.ok("install", "tunnel", CHART, *values, "--set", "agent.enabled=false")
    service = kubectl.ok("get", "service", "tunnel-server-agents", "-n", HOSTED, "-o", "jsonpath={.spec.clusterIP}")
    authority = cluster.pki.cluster
    certificate, key = authority.issue("hosted", "/CN=tunnel-server", [f"IP:{service}"])
    for name, more in (("agents", []), ("frontend", [f"--from-file=ca.crt={authority.certificate}"])):
        kubectl.ok("create", "secret", "generic", f"tunnel-server-{name}", "-n", HOSTED,
                   f"--from-file=tls.crt={certificate}", f"--from-file=tls.key={key}", *more)
    address = wait.until("the server's pod has an address", lambda: kubectl.ok(
        "get", "pods", "-n", HOSTED, "-o", "jsonpath={.items[*].status.podIP}"), LIMIT, pause=0.5)
    cluster.network.translate(service, 8132, address, 8132)
    helm.ok("upgrade", "tunnel", CHART, *values, "--set", f"agent.servers={{{service}}}", "--wait", "--timeout", f"{LIMIT}s")
    status = _status(kubectl, HOSTED, "deployment/tunnel-server", "/tunnel-server")
    return next(line for line in status.splitlines() if line.startswith("nodes:"))
