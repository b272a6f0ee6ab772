"""What people do with a cluster, all of which needs the tunnel here."""

import hashlib
import json
import os
import re
import sys

from .. import image, objects, wait
from ..checks.logs import read_lines
from ..fail import expect
from ..shell import run
from .cluster import CONTROL_PLANE

LIMIT = 90
FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())"


def logs_and_exec(kubectl, control_plane=CONTROL_PLANE):
    """Of the worker, and of a control plane's own kubelet: of etcd, which no check restarts and which thus has written lines.

    A kube-scheduler loses its lease with its kube-apiserver, is started anew, and has an empty log for a moment.
    """
    logs = kubectl.ok("logs", "deployment/box").strip()
    expect(logs.startswith("hello from box-"), f"kubectl logs printed {logs!r}")
    said = kubectl.ok("exec", "deployment/box", "--", "echo", "through the tunnel").strip()
    expect(said == "through the tunnel", f"kubectl exec printed {said!r}")
    expect(kubectl.ok("logs", f"etcd-{control_plane}", "-n", "kube-system", "--tail=1"),
           f"the kubelet of {control_plane} printed no logs")


def everything(cluster, node):
    """logs, exec, cp, port-forward, a webhook and the kubelet's metrics; to be called again after a change."""
    kubectl = cluster.kubectl
    logs_and_exec(kubectl)
    _copy(cluster)
    _forward(kubectl, cluster.node(CONTROL_PLANE).network.enter())
    ask_webhook(cluster, node)
    metrics = kubectl.raw(f"/api/v1/nodes/{node}/proxy/metrics/resource")
    expect("node_cpu_usage_seconds_total" in metrics, f"the metrics of {node} are {metrics[:200]!r}")


def _copy(cluster):
    data = os.urandom(4 << 20)
    there = os.path.join(cluster.directory, "copied")
    with open(there, "wb") as file:
        file.write(data)
    [pod] = cluster.kubectl.ok("get", "pods", "-l", "app=box", "-o", "name").split()
    cluster.kubectl.ok("cp", there, f"{pod.split('/')[1]}:/tmp/copied", timeout=LIMIT)
    sum_there = cluster.kubectl.ok("exec", "deployment/box", "--", "sha256sum", "/tmp/copied").split()[0]
    expect(sum_there == hashlib.sha256(data).hexdigest(), "kubectl cp changed the file")


def _forward(kubectl, enter):
    with kubectl.start("port-forward", "--address", "127.0.0.1", "deployment/box", f":{objects.WEB_PORT}") as running:
        item = read_lines(running.stdout).get(timeout=20)
        expect(item is not None, f"kubectl port-forward ended: {running.stderr.read() if item is None else ''}")
        port = re.search(rb"127\.0\.0\.1:(\d+)", item[0]).group(1).decode()
        got = run([*enter, sys.executable, "-c", FETCH, f"http://127.0.0.1:{port}/hello"], timeout=30).stdout
    expect(got, "the pod's web server answered nothing")


def create_webhook(cluster, node):
    """A pod of the node, its Service and a webhook that fails closed."""
    kubectl = cluster.kubectl
    container = {"name": "main", "image": image.NAME, "imagePullPolicy": "Never", "command": ["/bin/pod", "webhook"],
                 "readinessProbe": {"tcpSocket": {"port": objects.HOOK_PORT}, "periodSeconds": 1}}
    meta = {"name": "hook", "labels": {"app": "hook"}}
    for document in (
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": node, "containers": [container],
                                                                            "terminationGracePeriodSeconds": 1}},
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {
                "selector": {"app": "hook"}, "ports": [{"port": 443, "targetPort": objects.HOOK_PORT}]}}):
        kubectl.ok("create", "-f", "-", stdin=json.dumps(document))
    kubectl.ok("wait", "pod/hook", "--for=condition=Ready", f"--timeout={LIMIT}s", timeout=LIMIT + 10)
    objects.create_webhook(kubectl, cluster.authority.certificate)


def ask_webhook(cluster, node):
    if cluster.kubectl.try_("get", "pod", "hook").returncode != 0:
        create_webhook(cluster, node)
    name = f"denied-{os.urandom(4).hex()}"

    def denied():
        said = cluster.kubectl.try_("create", "-f", "-", stdin=objects.config_map(name))
        expect(said.returncode != 0, "the object that the webhook denies was created")
        return f"the pod behind the tunnel denies {name}" in said.stderr

    # The kube-apiserver learns of webhooks and of endpoints a moment after they were made.
    wait.until("the webhook denies", denied, LIMIT, pause=0.5)
    cluster.kubectl.ok("create", "-f", "-", stdin=objects.config_map(f"allowed-{os.urandom(4).hex()}"))
