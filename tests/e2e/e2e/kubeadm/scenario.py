"""The scenario `kubeadm`: a cluster is made, works without a tunnel but for its worker's kubelet, and gets the tunnel by hand."""

import json

from .. import image, kubernetes, wait
from ..cluster import cache_root
from ..fail import expect
from . import manual, use
from .cluster import CONTROL_PLANE, Cluster

WHERE, WORKER, LATER = "kubeadm", "worker", "worker-2"
LIMIT = 90


def scenario(chosen, report):
    programs = kubernetes.find_kubeadm(chosen, cache_root(), report.say)
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        for title, body in _checks(chosen, cluster, programs):
            # Each builds upon those before.
            if not report.check(WHERE, title, body):
                return


def _checks(chosen, cluster, programs):
    yield "kubeadm init makes a control plane", lambda: init(cluster, programs)
    yield "a worker joins", lambda: cluster.add_node(WORKER) and None
    yield "a Deployment is scheduled", lambda: deploy(cluster)
    yield "direct connections to the worker's kubelet are refused", lambda: refused(cluster.kubectl)
    yield "the images are built and imported", lambda: manual.import_images(cluster, chosen.bin_dir)
    yield "agents roll out, and the server has them", lambda: manual.install(cluster)
    yield "the kube-apiserver restarts with the egress configuration", lambda: manual.activate(cluster)
    yield "logs, exec, cp, port-forward, a webhook and metrics go through the tunnel", lambda: use.everything(cluster, WORKER)
    yield "an upgrade would keep the egress configuration", lambda: kept(cluster)
    yield "a worker that joins later gets an agent", lambda: _join_later(cluster)
    yield "a worker leaves", lambda: _leave(cluster)


def init(cluster, programs, **how):
    cluster.create(programs, cache_root(), **how)
    cluster.wait_node_ready(CONTROL_PLANE)
    # The pods that mirror static pods come when the kubelet has its node.
    for component in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        name = f"{component}-{CONTROL_PLANE}"
        wait.until(f"{name} is there", lambda name=name: cluster.kubectl.ok("get", "pod", name, "-n", "kube-system"), LIMIT)
    return f"Kubernetes {programs.version}"


def deploy(cluster):
    container = {"name": "main", "image": image.NAME, "imagePullPolicy": "Never",
                 "command": ["/bin/busybox", "sh", "-c", "echo hello from $HOSTNAME; exec pod serve"]}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 1}
    cluster.kubectl.ok("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "box"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "box"}},
                 "template": {"metadata": {"labels": {"app": "box"}}, "spec": pod}}}))
    cluster.kubectl.ok("rollout", "status", "deployment/box", f"--timeout={LIMIT}s", timeout=LIMIT + 10)
    [pod] = json.loads(cluster.kubectl.ok("get", "pods", "-l", "app=box", "-o", "json"))["items"]
    expect(pod["spec"]["nodeName"] == WORKER, f"it is on {pod['spec']['nodeName']}")


def refused(kubectl):
    said = kubectl.try_("logs", "deployment/box")
    expect(said.returncode != 0, f"there is no tunnel, and kubectl logs printed {said.stdout!r}")
    expect("connection refused" in said.stderr, f"kubectl logs said {said.stderr!r}")
    return said.stderr.strip()


def kept(cluster, node=CONTROL_PLANE):
    """Of the ConfigMap kubeadm makes the manifests anew."""
    said = cluster.enter(node, ["kubeadm", "upgrade", "diff", f"v{cluster.kubernetes.version}"]).stdout
    changed = [line for line in said.splitlines() if line.startswith(("+", "-", "@@"))]
    # Quotes are free in YAML, and no two writers agree on them.
    plain = [line.replace('"', "") for line in changed if not line.startswith(("---", "+++", "@@"))]
    differ = {line[1:] for line in plain if line[0] == "+"} ^ {line[1:] for line in plain if line[0] == "-"}
    expect(not differ, f"kubeadm would change the manifests: {changed}")


def _join_later(cluster):
    cluster.add_node(LATER)
    agent = manual.agent_on(cluster, LATER)
    expect(wait.until("its logs are read", lambda: cluster.kubectl.ok("logs", agent, "-n", manual.NAMESPACE), LIMIT), "no logs")


def _leave(cluster):
    cluster.remove_node(LATER)
    left = cluster.kubectl.ok("get", "nodes", "-o", "name").split()
    expect(left == [f"node/{CONTROL_PLANE}", f"node/{WORKER}"], f"the nodes are {left}")
