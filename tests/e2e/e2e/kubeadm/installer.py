"""The scenario `installer`: `tunnel-server install kubeadm` on a cluster, interruptions, a failure, and the way back."""

import os

from .. import kubernetes
from ..cluster import cache_root
from ..fail import expect
from . import command, manual, scenario as by_hand
from .cluster import CONTROL_PLANE, Cluster

WHERE, WORKER, LATER = "installer", by_hand.WORKER, by_hand.LATER


def scenario(chosen, report):
    programs = kubernetes.find_kubeadm(chosen, cache_root(), report.say)
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        installer = command.Installer(cluster, os.path.join(chosen.bin_dir, "tunnel-server"))
        for title, body in _checks(chosen, cluster, installer, programs):
            # Each builds upon those before.
            if not report.check(WHERE, title, body):
                return


def _checks(chosen, cluster, installer, programs):
    yield "kubeadm makes a cluster with a worker", lambda: _cluster(cluster, programs)
    yield "the images are imported", lambda: manual.import_images(cluster, chosen.bin_dir)
    before = {}
    yield "a dry run shows all changes and makes none", lambda: _dry_run(cluster, installer, before)
    yield "agents and server come first", lambda: _install(cluster, installer)
    yield "the kube-apiserver comes last", lambda: _activate(cluster, installer)
    yield "a second run changes nothing", lambda: _again(cluster, installer)
    yield "kubeadm upgrade keeps the tunnel", lambda: _upgrade(cluster)
    yield "status expects the nodes there are", lambda: _status(installer, 2)
    yield "uninstall leaves nothing", lambda: _uninstall(cluster, installer, before)


def _cluster(cluster, programs):
    by_hand.init(cluster, programs)
    cluster.add_node(WORKER)
    by_hand.deploy(cluster)
    return by_hand.refused(cluster)


def _dry_run(cluster, installer, before):
    before.update(command.state(cluster))
    said = installer.run("install", "kubeadm", "--activate", "--dry-run")
    for part in ("DaemonSet tunnel-system/tunnel-agent", "/etc/kubernetes/manifests/tunnel-server.yaml",
                 "+    - --egress-selector-config-file=/etc/kubernetes/tunnel/egress.yaml", "+++ ConfigMap kube-system/kubeadm-config"):
        expect(part in said, f"{part} is not in {said}")
    expect("PRIVATE KEY" not in said and "client-key-data" not in said, "a key was shown")
    _unchanged(cluster, before)


def _install(cluster, installer):
    said = installer.run("install", "kubeadm", "--yes")
    expect("next: tunnel-server install kubeadm --activate" in said, said)
    by_hand.refused(cluster)
    return said.splitlines()[-3]


def _activate(cluster, installer):
    said = installer.run("install", "kubeadm", "--activate", "--yes")
    expect("verified kubectl logs and kubectl exec" in said, said)
    by_hand.reached(cluster)


def _again(cluster, installer):
    before = command.state(cluster)
    said = installer.run("install", "kubeadm", "--activate", "--yes")
    expect("wrote" not in said and "applied" not in said, said)
    _unchanged(cluster, before)


def _upgrade(cluster):
    by_hand.kept(cluster)
    before = manual.api_server_hash(cluster)
    cluster.enter(CONTROL_PLANE, ["kubeadm", "init", "phase", "control-plane", "apiserver", "--config", _configuration(cluster)])
    expect(manual.api_server_hash(cluster) in (None, before), "the kube-apiserver's manifest is another one")
    by_hand.reached(cluster)


def _configuration(cluster):
    """The configuration that an upgrade reads."""
    text = cluster.kubectl.ok("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "jsonpath={.data.ClusterConfiguration}")
    with open(cluster.node(CONTROL_PLANE).seen_from_outside("/etc/kubernetes/again.yaml"), "w", encoding="utf-8") as file:
        file.write(text)
    return "/etc/kubernetes/again.yaml"


def _status(installer, nodes):
    said = installer.run("status")
    expect(f"{nodes} expected, {nodes} reachable" in said, said)


def _uninstall(cluster, installer, before):
    installer.run("uninstall", "kubeadm", "--yes")
    by_hand.refused(cluster)
    _unchanged(cluster, before)


def _unchanged(cluster, before):
    differ = command.difference(before, command.state(cluster))
    expect(not differ, f"these differ: {differ}")
