"""The scenario `controlplanes`: the tunnel beside two kube-apiservers, one of which stops, leaves and is replaced."""

import json
import os

from .. import kubernetes, wait
from ..cluster import cache_root
from ..fail import expect
from . import command, installer, manual, use
from . import scenario as by_hand
from .cluster import CONTROL_PLANE, Cluster

WHERE, SHARED = "controlplanes", "api.cluster.test"
FIRST, SECOND, THIRD, WORKER = CONTROL_PLANE, "control-plane-2", "control-plane-3", by_hand.WORKER
PREPARE, ACTIVATE, REMOVE = installer.PREPARE, installer.ACTIVATE, installer.REMOVE
API_SERVER, SERVER = "kube-apiserver.yaml", "tunnel-server.yaml"
FLAG = "egress-selector-config-file"
# An argument that the administrator adds, so that an upgrade has something to write.
ARGUMENT = "--profiling=false"
LIMIT = 120
# So long a kube-apiserver that ends waits for open watches, and no longer than the kubelet waits, 30 s.
API_SERVER_SECTION = {"extraArgs": [{"name": "request-timeout", "value": "10s"}]}


def scenario(chosen, report):
    programs = kubernetes.find_kubeadm(chosen, cache_root(), report.say)
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        for title, body in ControlPlanes(chosen, cluster, programs).checks():
            # Each builds upon those before.
            if not report.check(WHERE, title, body):
                return


class ControlPlanes:
    def __init__(self, chosen, cluster, programs):
        self.chosen, self.cluster, self.programs = chosen, cluster, programs
        self.installers = {name: command.Installer(cluster, os.path.join(chosen.bin_dir, "tunnel-server"), name)
                           for name in (FIRST, SECOND, THIRD)}
        self.before, self.manifest = {}, None

    def checks(self):
        yield "kubeadm makes two control planes and a worker", self._create
        yield "the images are imported", lambda: manual.import_images(self.cluster, self.chosen.bin_dir)
        yield "the second node finds what the first made", self._prepare
        yield "the kube-apiservers follow, one after the other", self._activate
        yield "every agent has a tunnel to both servers", lambda: self._tunnels(FIRST, SECOND)
        yield "doctor finds no failure on either", self._doctor
        yield "kubeadm upgrade keeps the tunnel on both", self._upgrade
        yield "the first control plane stops: the second goes on", self._stop
        yield "the first comes back", self._start
        yield "uninstall on the second: agents forget it", self._uninstall_second
        yield "it leaves the cluster, and kubeadm's configuration gets the tunnel back", self._leave
        yield "a new control plane joins the cluster with the tunnel", self._join
        yield "it gets a server, and its kube-apiserver stays as kubeadm made it", self._serve
        yield "uninstall on the first: the other goes on", self._uninstall_one
        yield "uninstall on the last leaves nothing", self._uninstall_last

    def _create(self):
        by_hand.init(self.cluster, self.programs, shared=SHARED, api_server=API_SERVER_SECTION)
        self.cluster.add_control_plane(SECOND)
        self.cluster.add_node(WORKER)
        by_hand.deploy(self.cluster)
        return "; ".join({by_hand.refused(self._kubectl(name)) for name in (FIRST, SECOND)})

    def _prepare(self):
        self.before, self.manifest = command.state(self.cluster, FIRST), self._read(FIRST, API_SERVER)
        said = self.installers[FIRST].run(*PREPARE)
        expect("agents dial other servers" not in said, said)
        said = self.installers[SECOND].run(*PREPARE)
        expect(f"agents dial other servers, which stay: {self._address(FIRST)}" in said, said)
        expect(said.count("applied") == 1 and "applied  DaemonSet" in said, f"it made the first's objects anew: {said}")
        self._changes_nothing(FIRST, PREPARE)
        self._agents_dial(FIRST, SECOND)
        for name in (FIRST, SECOND):
            by_hand.refused(self._kubectl(name))

    def _activate(self):
        said = self.installers[FIRST].run(*ACTIVATE)
        expect("kubeadm's configuration waits for the others" in said and f"--activate on {SECOND}" in said, said)
        self._reached(FIRST)
        by_hand.refused(self._kubectl(SECOND))
        expect(FLAG not in self._configuration(), self._configuration())
        said = self.installers[SECOND].run(*ACTIVATE)
        expect("so that kubeadm upgrade keeps the tunnel" in said, said)
        expect(FLAG in self._configuration(), self._configuration())
        self._reached(FIRST, SECOND)
        for name in (FIRST, SECOND):
            self._changes_nothing(name, ACTIVATE)

    def _tunnels(self, *names):
        """By the servers' Leases, and by each agent."""
        nodes = [*self.cluster.control_planes(), WORKER]
        count = len(nodes)
        all_of_them = f"{count} expected, {count} connected"
        several = f"{count} expected, {count} reachable, {count} on all servers"
        leases = ["status", "--kubeconfig=/etc/kubernetes/admin.conf", f"--namespace={manual.NAMESPACE}", "--wait=60s"]
        self._says(names[-1], leases, [*(f"\n{name} " for name in names), all_of_them if len(names) == 1 else several])
        for name in names:
            self._says(name, ["status", "--wait=60s"], [all_of_them])
        for node in nodes:
            agent = manual.agent_on(self.cluster, node)
            said = self._kubectl(names[0]).ok("exec", agent, "-n", manual.NAMESPACE, "--", "/tunnel-agent", "status", "--wait=60s", timeout=70)
            expect(f"{len(names)}/{len(names)}" in said and all(self._address(server) in said for server in names), said)

    def _says(self, name, argv, wanted):
        """Waits, since a server that has just started has no Lease for a moment, and a node that has just left is still counted."""
        def said():
            text = self.installers[name].run(*argv)
            missing = [part for part in wanted if part not in text]
            expect(not missing, f"{missing} not in: {text}")
            return True

        wait.until(f"tunnel-server {argv[0]} on {name} says {wanted}", said, LIMIT, pause=1)

    def _doctor(self):
        """kubeadm lets the kube-apiserver verify no kubelet, which is the one warning."""
        for name in (FIRST, SECOND):
            said = json.loads(self.installers[name].run("doctor", "-o", "json", code=1))
            expect([check["id"] for check in said["checks"] if check["verdict"] in ("warn", "fail")] == ["T110"], f"on {name}: {said}")

    def _upgrade(self):
        """The first as `kubeadm upgrade apply` does it, the second as `kubeadm upgrade node` does."""
        config = self.cluster.kubectl.ok("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
        changed = config.replace("      extraArgs:\n", "      extraArgs:\n      - name: profiling\n        value: \"false\"\n", 1)
        expect(changed != config, f"kubeadm's configuration has no arguments: {config}")
        self.cluster.kubectl.ok("replace", "-f", "-", stdin=changed)
        version = f"v{self.cluster.kubernetes.version}"
        for name, words in ((FIRST, ["apply", "phase", "control-plane", version]), (SECOND, ["node", "phase", "control-plane"])):
            self.cluster.enter(name, ["kubeadm", "upgrade", *words, "--etcd-upgrade=false"], timeout=400)
            manifest = self._read(name, API_SERVER)
            expect(ARGUMENT in manifest and FLAG in manifest, manifest)
            self._changes_nothing(name, ACTIVATE)
        self._reached(FIRST, SECOND)

    def _stop(self):
        """Its etcd goes on: of two members none may be absent."""
        host = self.cluster.node(FIRST)
        for name in (API_SERVER, SERVER):
            os.rename(host.seen_from_outside(f"{manual.MANIFESTS}/{name}"), host.seen_from_outside(f"/etc/kubernetes/{name}"))
        wait.until("the kube-apiserver refuses connections", lambda: "refused" in self._kubectl(FIRST).try_("get", "nodes").stderr, LIMIT)
        wait.until("the tunnel server has ended", lambda: self.installers[FIRST].run("status", code=2), LIMIT)
        self._reached(SECOND)
        # Not by the first's kubelet, which knows its own kube-apiserver only.
        said = self.installers[SECOND].run("status")
        expect("3/3" in said, said)

    def _start(self):
        host = self.cluster.node(FIRST)
        for name in (API_SERVER, SERVER):
            os.rename(host.seen_from_outside(f"/etc/kubernetes/{name}"), host.seen_from_outside(f"{manual.MANIFESTS}/{name}"))
        wait.until("the kube-apiserver is back", lambda: self.cluster.kubectl.ok("get", "--raw", "/readyz") == "ok", LIMIT)
        self.cluster.wait_node_ready(FIRST)
        self._tunnels(FIRST, SECOND)
        self._reached(FIRST, SECOND)

    def _uninstall_second(self):
        said = self.installers[SECOND].run(*REMOVE)
        expect("kubeadm upgrade undoes it on the others" in said and f"uninstall kubeadm on {FIRST}" in said, said)
        self._agents_dial(FIRST)
        expect(FLAG not in self._configuration(), self._configuration())
        self._reached(FIRST)

    def _leave(self):
        self.cluster.remove_control_plane(SECOND, self.cluster.kubectl)
        said = self.installers[FIRST].run(*ACTIVATE)
        expect("wrote" not in said and "so that kubeadm upgrade keeps the tunnel" in said, said)
        self._tunnels(FIRST)
        self._reached(FIRST)

    def _join(self):
        prepared = []

        def before():
            prepared.append(self.installers[THIRD].run("install", "kubeadm", "--before-join"))

        self.cluster.add_control_plane(THIRD, before)
        expect("kubeadm join ... --control-plane" in prepared[0], prepared[0])
        expect(FLAG in self._read(THIRD, API_SERVER), "kubeadm join made a kube-apiserver without the tunnel")

    def _serve(self):
        said = self.installers[THIRD].run(*ACTIVATE)
        expect(API_SERVER not in said, f"the kube-apiserver was restarted: {said}")
        expect(f"agents dial other servers, which stay: {self._address(FIRST)}\n" in said, said)
        self._changes_nothing(THIRD, ACTIVATE)
        self._tunnels(FIRST, THIRD)
        self._reached(FIRST, THIRD)

    def _uninstall_one(self):
        self.installers[FIRST].run(*REMOVE)
        self._agents_dial(THIRD)
        self._reached(THIRD)
        by_hand.refused(self.cluster.kubectl)
        self._tunnels(THIRD)

    def _uninstall_last(self):
        said = self.installers[THIRD].run(*REMOVE)
        expect("The tunnel is gone.\n" in said, said)
        by_hand.refused(self._kubectl(THIRD))
        now = command.state(self.cluster, FIRST)
        # The upgrade left its own traces, and its argument.
        differ = set(command.difference(self.before, now)) - {key for key in now if key.startswith(("tmp/", "pki/")) or key.endswith(".conf")}
        differ -= {f"manifests/{API_SERVER}", "kubeadm-config"}
        expect(not differ, f"these differ on {FIRST}: {differ}")
        lines = [set(text.replace('"', "").splitlines()) for text in (self.manifest, self._read(FIRST, API_SERVER))]
        expect(lines[0] ^ lines[1] == {f"    - {ARGUMENT}"}, f"these lines differ: {lines[0] ^ lines[1]}")
        expect("tunnel" not in now["kubeadm-config"], now["kubeadm-config"])
        left = [key for key in command.state(self.cluster, THIRD) if "tunnel" in key]
        expect(not left, f"these are left on {THIRD}: {left}")
        by_hand.kept(self.cluster, THIRD)

    def _reached(self, *names):
        """Logs and exec by each of these kube-apiservers, of the worker and of every control plane's kubelet."""
        for name in names:
            for other in self.cluster.control_planes():
                use.logs_and_exec(self._kubectl(name), other)

    def _changes_nothing(self, name, line):
        before = command.state(self.cluster, name)
        said = self.installers[name].run(*line)
        expect("wrote" not in said and "applied" not in said, said)
        differ = command.difference(before, command.state(self.cluster, name))
        expect(not differ, f"these differ on {name}: {differ}")

    def _agents_dial(self, *names):
        """Waits until they are replaced, since one that ends has to be asked nothing."""
        kubectl = self._kubectl(names[0])
        kubectl.ok("rollout", "status", "daemonset/tunnel-agent", "-n", manual.NAMESPACE, f"--timeout={LIMIT}s", timeout=LIMIT + 10)
        said = kubectl.ok("get", "daemonset", "tunnel-agent", "-n", manual.NAMESPACE, "-o", "json")
        args = json.loads(said)["spec"]["template"]["spec"]["containers"][0]["args"]
        wanted = "--proxy-server-host=" + ",".join(self._address(name) for name in names)
        expect([arg for arg in args if arg.startswith("--proxy-server-host=")] == [wanted], f"{args}, not {wanted}")

    def _kubectl(self, name):
        return self.cluster.kubectl_at(name)

    def _address(self, name):
        return self.cluster.node(name).network.node

    def _read(self, name, manifest):
        with open(self.cluster.node(name).seen_from_outside(f"{manual.MANIFESTS}/{manifest}"), encoding="utf-8") as file:
            return file.read()

    def _configuration(self):
        return self.cluster.kubectl.ok("get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "yaml")
