"""Network namespaces. Those of a run are named after it, so that `remove` finds them."""

import os

from .shell import run

PLACE = "/run/netns"
# For the lock that every iptables of the machine takes, in whatever namespace.
WAIT = ("-w", "60")


class Namespace:
    """One namespace, made by `add`."""

    def __init__(self, name):
        self.name = name

    def add(self):
        run(["ip", "netns", "add", self.name])
        self.inside(["ip", "link", "set", "lo", "up"])

    def delete(self):
        run(["ip", "netns", "delete", self.name])

    def inside(self, command):
        return run([*self.enter(), *command])

    def enter(self):
        """The prefix of a command in this network. It execs, so the pid is the command's.

        `ip netns exec` would do more than that: it remounts /sys and hides the control groups.
        """
        return ["nsenter", f"--net={PLACE}/{self.name}"]

    def close_inbound(self, interface, verdict):
        """No TCP connection can be opened through the interface, neither to the node nor through it to a pod."""
        for chain in ("INPUT", "FORWARD"):
            self.inside(["iptables", *WAIT, "-I", chain, "-i", interface, "-p", "tcp", "--syn", "-j", verdict])


def remove(run_name):
    """Remove the namespaces of a run; their interfaces, and the routes over them, go with them."""
    for name in os.listdir(PLACE) if os.path.isdir(PLACE) else []:
        if name == run_name or name.startswith(f"{run_name}-"):
            Namespace(name).delete()
