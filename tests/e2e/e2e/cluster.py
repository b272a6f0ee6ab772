"""The whole cluster of one run: made in order, removed in any state."""

import os
import threading

from . import controlplane, egress, image, objects, wait
from .kubectl import Kubectl
from .network import Network
from .node import Node
from .pki import Pki
from .randomfile import RandomFile
from .workplace import Workplace

NODE = "node-1"


def cache_root():
    """Outside the checkout, so that `git clean` does not cost minutes of building."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "tunnel-e2e")
    os.makedirs(path, exist_ok=True)
    return path


class Cluster(Workplace):
    """The control plane in the root network namespace, and one node."""

    def __init__(self, options, say):
        super().__init__(options, say)
        self.node = None
        self._files, self._lock = {}, threading.Lock()
        self.frontends = ["direct"] if options.direct else options.frontends

    def create(self, kubernetes, tunnel_server):
        """`tunnel_server` makes the server from this cluster; it is started first, so that its socket exists."""
        self.kubernetes = kubernetes
        self.network = Network(self.run.name)
        self.network.create()
        if not self.options.direct:
            self.network.close_inbound()
        self.pki = Pki(os.path.join(self.directory, "pki"), self.network, NODE)
        server = tunnel_server(self)
        self._start_control_plane(server)
        self._start_node()
        return server

    def _start_control_plane(self, server):
        self.say(f"starting etcd and {len(self.frontends)} kube-apiserver {self.kubernetes.version}")
        etcd = controlplane.start_etcd(self.processes, self.directory)
        self.apis = {f: controlplane.ApiServer(f, self.directory, self.network, self.pki) for f in self.frontends}
        for position, (frontend, api) in enumerate(self.apis.items()):
            selector = egress.selector(egress.connection(frontend, server, self.pki))
            api.start(self.processes, self.kubernetes.program("kube-apiserver"), etcd, selector)
            if position == 0:
                api.wait_ready(self.kubectl(frontend))  # The first one writes the bootstrap objects; several at once only get in each other's way.
        for frontend, api in self.apis.items():
            api.wait_ready(self.kubectl(frontend))

    def _start_node(self):
        self.say("starting containerd and kubelet")
        self.node = node = Node(NODE, os.path.join(self.directory, "node"), self.network, self.processes)
        self.hosts.append(node)
        node.start_init()
        node.start_containerd()
        program = image.build_program(cache_root())
        certificate, key = self.pki.webhook
        archive = image.write_archive(os.path.join(self.directory, "image.tar"), program,
                                      {"etc/webhook.crt": certificate, "etc/webhook.key": key})
        node.ctr("image", "import", archive)
        first = next(iter(self.apis.values()))
        node.start_kubelet(self.kubernetes, first.url, self.pki, self.run.name)

    def populate(self):
        """Pods, services and the webhook. None of this needs a tunnel: the kubelet dials out by itself."""
        kubectl = self.kubectl(self.frontends[0])
        wait.until("the node is registered", lambda: NODE in kubectl.ok("get", "nodes", "-o", "name"), 60, pause=0.5)
        self.say("starting the pods")
        addresses = objects.create_pods(kubectl, NODE)
        sliced = self.kubernetes.since(21)
        objects.create_service(kubectl, "web", self.network.web_service, objects.WEB_PORT, addresses["web"], sliced)
        objects.create_service(kubectl, "hook", self.network.webhook_service, objects.HOOK_PORT, addresses["hook"], sliced)
        self.network.translate(self.network.webhook_service, 443, addresses["hook"], objects.HOOK_PORT)
        objects.create_webhook(kubectl, self.pki.cluster.certificate)
        if "conversion" in self.options.only:
            objects.create_notes(kubectl, self.pki.cluster.certificate)
        objects.create_gone_pod(kubectl, self.network.nobody)

    def kubectl(self, frontend):
        return Kubectl(self.kubernetes.kubectl, self.apis[frontend].kubeconfig, self.directory, self.processes.environment)

    def random_file(self, megabytes):
        """A file of random bytes, made once."""
        with self._lock:
            if megabytes not in self._files:
                self._files[megabytes] = RandomFile(os.path.join(self.directory, f"random-{megabytes}"), megabytes)
            return self._files[megabytes]

    def log_tails(self, where, lines):
        """The programs under test, and the API server of the frontend that failed."""
        frontend = where.split("/")[0]
        return self.processes.log_tails(lines, lambda name: name.startswith("tunnel-") or name.endswith(f"-{frontend}"))
