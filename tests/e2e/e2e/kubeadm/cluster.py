"""The cluster: hosts on a switch, a control plane by `kubeadm init`, workers by `kubeadm join`.

    with Cluster(options, say) as cluster:
        cluster.create(kubernetes, cache_root)       # the control plane
        cluster.add_node("worker-1")
        cluster.add_control_plane("second")          # if `create` was given a shared name
        cluster.enter(CONTROL_PLANE, ["kubeadm", "certs", "check-expiration"])
        cluster.kubectl.ok("get", "nodes")
        cluster.kubectl_at("second").ok("get", "nodes")

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

    def create(self, kubernetes, cache_root, shared=None, api_server=None):
        """Boot the control plane's host and run `kubeadm init` there.

        `shared` is a name for all kube-apiservers, which further ones need; `api_server` kubeadm's section of that name.
        """
        self.kubernetes, self._archives = kubernetes, []
        self._shared, self._control_planes = shared, []
        self.lan = Lan(self.run.name)
        self.lan.create()
        host = self._boot(CONTROL_PLANE, closed=False)
        self.authority = pki.Authority(self.directory, "webhook-ca")
        hook = self.authority.issue("webhook", "/CN=webhook", ["DNS:hook.default.svc"])
        self.import_image(images.every_node(cache_root, self.directory, hook))
        self._static_pods = list(images.control_plane(kubernetes, self.directory))
        for archive in self._static_pods:
            host.ctr("image", "import", archive)
        self._is_control_plane(host)
        host.kubeadm("init", config.init(kubernetes.version, host, api_server, shared))
        self.kubectl = self.kubectl_at(CONTROL_PLANE)

    def add_node(self, name):
        """Boot a host and join it as a worker; returns when it is ready."""
        # First, because kubeadm tries again after five seconds only while a new token is not signed.
        said = self._join_command()
        host = self._boot(name, closed=True)
        for archive in self._archives:
            host.ctr("image", "import", archive)
        host.kubeadm("join", config.join(host, **JOIN.search(said).groupdict()))
        self.wait_node_ready(name)
        return host

    def add_control_plane(self, name, before=lambda: None):
        """The same with a control plane and a member of etcd. `before` is called before kubeadm joins."""
        said = self._join_command()
        uploaded = self.enter(self._control_planes[0].name, [
            "kubeadm", "init", "phase", "upload-certs", "--upload-certs", "--config=/etc/kubernetes/init.yaml"]).stdout
        host = self._boot(name, closed=False)
        for archive in [*self._archives, *self._static_pods]:
            host.ctr("image", "import", archive)
        before()
        host.kubeadm("join", config.join(host, **JOIN.search(said).groupdict(), certificate_key=uploaded.split()[-1]))
        self._is_control_plane(host)
        self.wait_node_ready(name)
        return host

    def kubectl_at(self, name):
        """kubectl as administrator at this node's kube-apiserver, whatever the shared name leads to."""
        host = self.node(name)
        admin = os.path.join(host.home, ".kube", "config")  # Where kubeadm tells its user to copy it.
        shutil.copy(host.seen_from_outside("/etc/kubernetes/admin.conf"), admin)
        with open(admin, encoding="utf-8") as file:
            here = re.sub(r"(server: https://)\S+", rf"\g<1>{host.network.node}:{PORT}", file.read())
        file = os.path.join(host.directory, "admin-here.conf")
        with open(file, "w", encoding="utf-8") as opened:
            opened.write(here)
        return Kubectl(self.kubernetes.kubectl, file, self.directory, self.processes.environment, host.network.enter())

    def remove_control_plane(self, name, kubectl):
        """Reset the node, so that etcd knows of it, delete it and switch its host off."""
        host = self.node(name)
        host.run(["kubeadm", "reset", "--force"], timeout=120)
        # etcd fails requests while its members elect a leader without the one that has left.
        wait.until(f"{name} is deleted", lambda: kubectl.ok(
            "delete", "node", name, "--ignore-not-found") is not None, 90, pause=0.5)
        self._control_planes.remove(host)
        self._write_shared()
        host.kill()
        self.hosts.remove(host)
        self.lan.detach(host.network)

    def remove_node(self, name):
        """Drain the node, delete it and switch its host off."""
        host = self.node(name)
        self.kubectl.ok("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", timeout=120)
        self.kubectl.ok("delete", "node", name)
        host.kill()
        self.hosts.remove(host)
        self.lan.detach(host.network)

    def control_planes(self):
        """Their names, in the order of the shared name's addresses."""
        return [host.name for host in self._control_planes]

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

    def _join_command(self):
        return self.enter(self._control_planes[0].name, ["kubeadm", "token", "create", "--print-join-command"]).stdout

    def _is_control_plane(self, host):
        self._control_planes.append(host)
        self._write_shared()

    def _write_shared(self):
        """The shared name has the addresses of all kube-apiservers: clients try them in this order.

        By a rename: a kubelet would give half a file to a pod for good.
        """
        for host in self.hosts:
            file = host.seen_from_outside("/etc/hosts")
            with open(file, encoding="utf-8") as opened:
                lines = [line for line in opened if not line.endswith(f" {self._shared}\n")]
            lines += [f"{each.network.node} {self._shared}\n" for each in self._control_planes if self._shared]
            with open(f"{file}.new", "w", encoding="utf-8") as opened:
                opened.writelines(lines)
            os.replace(f"{file}.new", file)

    def _boot(self, name, closed):
        network = self.lan.attach(closed)
        host = Machine(name, os.path.join(self.directory, name), network, self.processes, self.kubernetes, self.run.name)
        self.hosts.append(host)
        host.boot([f"{each.network.node} {each.name}" for each in self.hosts])
        self._write_shared()
        return host
