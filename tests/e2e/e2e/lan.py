"""Several hosts on one switch, none of which the machine itself can reach.

Addresses are fixed, because nothing of this is in the machine's own network: host number N has 10.200.0.N,
and its pods have 10.201.N.0/24. Every host routes to every other's pods.
"""

from .namespace import WAIT, Namespace
from .shell import run

PODS, SERVICES = "10.201.0.0/16", "10.202.0.0/24"
INTERFACE = "eth0"  # In the host's namespace.
BRIDGE = "lan"


class Lan:
    """The switch is a bridge in a namespace of its own."""

    def __init__(self, run_name):
        self._run_name, self._ports, self._numbers = run_name, {}, 0
        self._switch = Namespace(f"{run_name}-lan")

    def create(self):
        self._switch.add()
        self._switch.inside(["ip", "link", "add", BRIDGE, "type", "bridge"])
        self._switch.inside(["ip", "link", "set", BRIDGE, "up"])

    def attach(self, closed):
        """The network of a further host. A closed one refuses every TCP connection to it, and those of hosts to its pods."""
        self._numbers += 1
        port = Port(Namespace(f"{self._run_name}-{self._numbers}"), self._numbers)
        port.create(self._switch)
        for other in self._ports.values():
            port.route_to(other)
            other.route_to(port)
        self._ports[port.number] = port
        if closed:
            port.namespace.close_inbound(INTERFACE, "REJECT")
            port.namespace.inside(["iptables", *WAIT, "-I", "FORWARD", "-i", INTERFACE, "-s", PODS, "-j", "ACCEPT"])
        return port

    def detach(self, port):
        """The number is not used again: the others keep their routes."""
        del self._ports[port.number]
        port.namespace.delete()


class Port:
    """One host's network."""

    def __init__(self, namespace, number):
        self.namespace, self.number = namespace, number
        self.node, self.pods = f"10.200.0.{number}", f"10.201.{number}.0/24"
        self.enter = namespace.enter

    def create(self, switch):
        inside, name = self.namespace.inside, f"port{self.number}"
        self.namespace.add()
        run(["ip", "link", "add", name, "netns", switch.name, "type", "veth", "peer", "name", INTERFACE,
             "netns", self.namespace.name])
        switch.inside(["ip", "link", "set", name, "master", BRIDGE, "up"])
        inside(["ip", "addr", "add", f"{self.node}/24", "dev", INTERFACE])
        inside(["ip", "link", "set", INTERFACE, "up"])
        inside(["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])
        # Refusals of closed hosts are ICMP. With the kernel's limit of one a second, most would be timeouts.
        inside(["sysctl", "-q", "-w", "net.ipv4.icmp_ratelimit=0"])

    def route_to(self, other):
        self.namespace.inside(["ip", "route", "add", other.pods, "via", other.node])
