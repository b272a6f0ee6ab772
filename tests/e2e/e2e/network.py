"""The node's network: a namespace, a veth pair, and a firewall that lets nothing in.

Root side 10.200.N.1, node side 10.200.N.2, pods 10.201.N.0/24, services 10.202.N.0/24. N is the
first that is free, so two runs, or a leftover, do not meet. The routes to pods and services lead
into the node on purpose: a dial that does not go through the tunnel then runs into the firewall
and is seen to fail, and nothing leaves the machine.
"""

from . import namespace
from .fail import Unusable
from .namespace import WAIT, Namespace
from .shell import run


class Network:
    """Addresses of the run, and the namespace itself once `create` was called."""

    def __init__(self, name):
        self.namespace = Namespace(name)
        self.inside, self.enter = self.namespace.inside, self.namespace.enter
        self.outer, self.inner = f"{name}a", f"{name}b"
        third = _free_third_octet()
        self.control_plane, self.node = f"10.200.{third}.1", f"10.200.{third}.2"
        self.pods, self.bridge_address = f"10.201.{third}.0/24", f"10.201.{third}.1"
        self.services, self.webhook_service = f"10.202.{third}.0/24", f"10.202.{third}.10"
        self.web_service = f"10.202.{third}.11"
        self.kubernetes_service = f"10.202.{third}.1"  # The kube-apiserver takes the first address for itself.
        self.nobody = f"10.201.{third}.250"

    def create(self):
        self.namespace.add()
        run(["ip", "link", "add", self.outer, "type", "veth", "peer", "name", self.inner, "netns", self.namespace.name])
        run(["ip", "addr", "add", f"{self.control_plane}/30", "dev", self.outer])
        run(["ip", "link", "set", self.outer, "up"])
        self.inside(["ip", "addr", "add", f"{self.node}/30", "dev", self.inner])
        self.inside(["ip", "link", "set", self.inner, "up"])
        # A service address needs some route before the firewall translates it; where to does not matter.
        self.inside(["ip", "route", "add", self.services, "dev", self.inner])
        self.inside(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
        for subnet in (self.pods, self.services):
            run(["ip", "route", "add", subnet, "via", self.node])

    def close_inbound(self):
        """No TCP connection can be opened towards the node, nor through it to a pod."""
        self.namespace.close_inbound(self.inner, "DROP")

    def translate(self, service_ip, service_port, target_ip, target_port):
        """What kube-proxy would do for one service: for the node's own traffic and, in direct mode, for passing one."""
        for chain in ("OUTPUT", "PREROUTING"):
            self.inside(["iptables", *WAIT, "-t", "nat", "-A", chain, "-d", service_ip, "-p", "tcp",
                         "--dport", service_port, "-j", "DNAT", "--to-destination", f"{target_ip}:{target_port}"])


def remove(name):
    """Remove all networks of a run."""
    namespace.remove(name)
    # The kernel removes the interfaces a moment later, or by this command where the namespace was never made.
    run(["ip", "link", "delete", f"{name}a"], check=False)


def _free_third_octet():
    taken = run(["ip", "-4", "route", "show", "table", "all"]).stdout
    for third in range(256):
        if not any(f"{prefix}.{third}." in taken for prefix in ("10.200", "10.201", "10.202")):
            return third
    raise Unusable("No free subnet is left under 10.200.0.0/16; remove some of the routes there.")
