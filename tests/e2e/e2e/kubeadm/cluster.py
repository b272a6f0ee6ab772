"""The cluster: hosts on a switch, a control plane by `kubeadm init`, workers by `kubeadm join`.

    with Cluster(options, say) as cluster:
        cluster.create(kubernetes, cache_root)       # the control plane
        cluster.add_node("worker-1")
        cluster.enter(CONTROL_PLANE, ["kubeadm", "certs", "check-expiration"])
        cluster.kubectl.ok("get", "nodes")

No TCP connection can be opened to a worker or to its pods from another host.
"""

import os
import re
import shutil

from .. import pki, wait
from ..kubectl import Kubectl
from ..lan import Lan
from ..processes import tail
from ..workplace import Workplace
from . import config, images
from .machine import Machine

CONTROL_PLANE = "control-plane"
PORT = 6443
JOIN = re.compile(r"kubeadm join (?P<endpoint>\S+) --token (?P<token>\S+) --discovery-token-ca-cert-hash (?P<authority_hash>\S+)")


class Cluster(Workplace):
    """Nodes are known by their names."""

    def create(self, kubernetes, cache_root):
        """Boot the control plane's host and run `kubeadm init` there."""
        self.kubernetes, self._archives = kubernetes, []
        self.lan = Lan(self.run.name)
        self.lan.create()
        host = self._boot(CONTROL_PLANE, closed=False)
        self.authority = pki.Authority(self.directory, "webhook-ca")
        hook = self.authority.issue("webhook", "/CN=webhook", ["DNS:hook.default.svc"])
        self.import_image(images.every_node(cache_root, self.directory, hook))
        for archive in images.control_plane(kubernetes, self.directory):
            host.ctr("image", "import", archive)
        host.kubeadm("init", config.init(kubernetes.version, host))
        admin = os.path.join(host.home, ".kube", "config")  # Where kubeadm tells its user to copy it.
        shutil.copy(host.seen_from_outside("/etc/kubernetes/admin.conf"), admin)
        self.kubectl = Kubectl(
            kubernetes.kubectl, admin, self.directory, self.processes.environment, host.network.enter())

    def add_node(self, name):
        """Boot a host and join it as a worker; returns when it is ready."""
        # First, because kubeadm tries again after five seconds only while a new token is not signed.
        said = self.enter(CONTROL_PLANE, ["kubeadm", "token", "create", "--print-join-command"]).stdout
        host = self._boot(name, closed=True)
        for archive in self._archives:
            host.ctr("image", "import", archive)
        host.kubeadm("join", config.join(host, **JOIN.search(said).groupdict()))
        self.wait_node_ready(name)
        return host

    def remove_node(self, name):
        """Drain the node, delete it and switch its host off."""
        host = self.node(name)
        self.kubectl.ok("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout=120)
        self.kubectl.ok("delete", "node", name)
        host.kill()
        self.hosts.remove(host)
        self.lan.detach(host.network)

    def node(self, name):
        return next(host for host in self.hosts if host.name == name)

    def enter(self, name, argv, **how):
        """Run a command on the node as its operator, to the end. `how` is that of `shell.run`."""
        return self.node(name).run(argv, **how)

    def import_image(self, archive):
        """Give the image to every node, and to those that join later."""
        self._archives.append(archive)
        for host in self.hosts:
            host.ctr("image", "import", archive)

    def wait_node_ready(self, name):
        wait.until(f"{name} is ready", lambda: self.kubectl.ok(
            "wait", "node", name, "--for=condition=Ready", "--timeout=10s"), 90)

    def log_tails(self, _where, lines):
        """kubeadm's, and those of the pods that matter here."""
        yield from self.processes.log_tails(lines, lambda name: name.endswith("-kubeadm"))
        for host in self.hosts:
            for name, path in host.pod_logs(lambda name: name.startswith(("tunnel-", "konnectivity-", "kube-apiserver-"))):
                yield name, tail(path, lines)

    def _boot(self, name, closed):
        network = self.lan.attach(closed)
        host = Machine(name, os.path.join(self.directory, name), network, self.processes, self.kubernetes, self.run.name)
        self.hosts.append(host)
        host.boot([f"{each.network.node} {each.name}" for each in self.hosts])
        return host
