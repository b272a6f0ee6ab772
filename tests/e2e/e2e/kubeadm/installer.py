"""The scenario `installer`: `tunnel-server install kubeadm` on a cluster, interruptions, a failure, and the way back."""

import json
import os

from .. import kubernetes, wait
from ..cluster import cache_root
from ..fail import expect
from . import command, manual, use
from . import scenario as by_hand
from .cluster import CONTROL_PLANE, Cluster

WHERE, WORKER, LATER = "installer", by_hand.WORKER, by_hand.LATER
PREPARE, ACTIVATE = ("install", "kubeadm", "--yes"), ("install", "kubeadm", "--activate", "--yes")
REMOVE = ("uninstall", "kubeadm", "--yes")
# More than the kube-apiserver takes to come back, and a server to follow the nodes again. A kube-apiserver that cannot
# start is waited for that long.
LIMIT = 110


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
    states = {}
    yield "kubeadm makes a cluster with a worker", lambda: _cluster(cluster, programs)
    yield "the images are imported", lambda: manual.import_images(cluster, chosen.bin_dir)
    yield "a dry run shows all changes and makes none", lambda: _dry_run(cluster, installer, states)
    yield "agents and server come first, killed at each step", lambda: _prepare(cluster, installer, states)
    yield "a kube-apiserver that cannot start is rolled back", lambda: _roll_back(cluster, installer, states)
    yield "the kube-apiserver comes last, killed at each step", lambda: _activate(cluster, installer)
    yield "doctor finds no failure, on the control plane and in agents", lambda: _doctor(cluster, installer)
    yield "a worker that joins has an agent, and leaves no trace", lambda: _join_and_leave(cluster, installer)
    yield "kubeadm upgrade keeps the tunnel", lambda: _upgrade(cluster)
    yield "uninstall leaves nothing, killed at each step", lambda: _uninstall(cluster, installer, states)


def _cluster(cluster, programs):
    by_hand.init(cluster, programs)
    cluster.add_node(WORKER)
    by_hand.deploy(cluster)
    return by_hand.refused(cluster.kubectl)


def _dry_run(cluster, installer, states):
    states["before"] = command.state(cluster)
    said = installer.run("install", "kubeadm", "--activate", "--dry-run")
    for part in ("DaemonSet tunnel-system/tunnel-agent", "/etc/kubernetes/manifests/tunnel-server.yaml",
                 "+    - --egress-selector-config-file=/etc/kubernetes/tunnel/egress.yaml", "+++ ConfigMap kube-system/kubeadm-config"):
        expect(part in said, f"{part} is not in {said}")
    expect("PRIVATE KEY" not in said and "client-key-data" not in said, "a key was shown")
    command.unchanged(cluster, states["before"])


def _prepare(cluster, installer, states):
    killed = installer.kill_at_each_line(*PREPARE)
    _changes_nothing(cluster, installer, PREPARE)
    states["prepared"] = command.state(cluster)
    by_hand.refused(cluster.kubectl)
    return f"{killed} times"


def _roll_back(cluster, installer, states):
    """The file is broken while the kubelet replaces the kube-apiserver."""
    egress = cluster.node(CONTROL_PLANE).seen_from_outside("/etc/kubernetes/tunnel/egress.yaml")

    def spoil(line):
        if line.startswith("wrote    /etc/kubernetes/manifests/kube-apiserver.yaml"):
            with open(egress, "w", encoding="utf-8") as file:
                file.write("kind: Nonsense\n")

    said = installer.run(*ACTIVATE, f"--timeout={LIMIT}s", code=2, each=spoil)
    expect("runs with its old manifest again" in said, said)
    by_hand.refused(cluster.kubectl)
    # The next run mends the file.
    installer.run(*PREPARE)
    command.unchanged(cluster, states["prepared"], but=["tunnel/backup/kube-apiserver.yaml"])


def _activate(cluster, installer):
    killed = installer.kill_at_each_line(*ACTIVATE)
    use.everything(cluster, WORKER)
    _changes_nothing(cluster, installer, ACTIVATE)
    return f"{killed} times"


def _doctor(cluster, installer):
    """kubeadm lets the kube-apiserver verify no kubelet, which is the one warning."""
    said = json.loads(installer.run("doctor", "-o", "json", code=1))
    verdicts = {check["id"]: check["verdict"] for check in said["checks"]}
    expect(said["failed"] == 0, f"failures: {said}")
    expect([name for name, verdict in verdicts.items() if verdict == "warn"] == ["T110"], f"warnings: {said}")
    expect(verdicts["T111"] == verdicts["T401"] == "ok", f"kubelets or agents were not asked: {said}")
    for node in (CONTROL_PLANE, WORKER):
        agent = manual.agent_on(cluster, node)
        cluster.kubectl.ok("exec", agent, "-n", manual.NAMESPACE, "--", "/tunnel-agent", "doctor")
    return f"{said['ok']} ok, {said['skipped']} skipped"


def _join_and_leave(cluster, installer):
    _status(installer, 2)
    cluster.add_node(LATER)
    manual.agent_on(cluster, LATER)
    _status(installer, 3)
    cluster.remove_node(LATER)
    _status(installer, 2)


def _status(installer, nodes):
    """Waits, since the server follows the nodes by a watch: for a moment it is content with those of before."""
    def counted():
        said = installer.run("status", "--wait=90s")
        expect(f"{nodes} expected, {nodes} connected" in said, said)
        return True

    wait.until(f"the server counts {nodes} nodes", counted, LIMIT, pause=1)


def _upgrade(cluster):
    """A flag that the administrator adds, so that an upgrade has something to write."""
    by_hand.kept(cluster)
    config = cluster.kubectl.ok("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
    changed = config.replace("      extraArgs:\n", "      extraArgs:\n      - name: profiling\n        value: \"false\"\n", 1)
    expect(changed != config, f"kubeadm's configuration has no arguments: {config}")
    cluster.kubectl.ok("replace", "-f", "-", stdin=changed)
    cluster.enter(CONTROL_PLANE, [
        "kubeadm", "upgrade", "apply", "phase", "control-plane", f"v{cluster.kubernetes.version}", "--etcd-upgrade=false"], timeout=400)
    with open(cluster.node(CONTROL_PLANE).seen_from_outside("/etc/kubernetes/manifests/kube-apiserver.yaml"), encoding="utf-8") as file:
        manifest = file.read()
    expect("--profiling=false" in manifest and "--egress-selector-config-file" in manifest, manifest)
    use.everything(cluster, WORKER)


def _uninstall(cluster, installer, states):
    killed = installer.kill_at_each_line(*REMOVE)
    by_hand.refused(cluster.kubectl)
    now, before = command.state(cluster), states["before"]
    # The upgrade left its own traces.
    differ = set(command.difference(before, now)) - {key for key in now if key.startswith(("tmp/", "pki/")) or key.endswith(".conf")}
    differ -= {"manifests/kube-apiserver.yaml", "manifests/kube-controller-manager.yaml", "manifests/kube-scheduler.yaml", "kubeadm-config"}
    expect(not differ, f"these differ: {differ}")
    expect("tunnel" not in now["kubeadm-config"], now["kubeadm-config"])
    return f"{killed} times"


def _changes_nothing(cluster, installer, line):
    before = command.state(cluster)
    said = installer.run(*line)
    expect("wrote" not in said and "applied" not in said, said)
    command.unchanged(cluster, before)
