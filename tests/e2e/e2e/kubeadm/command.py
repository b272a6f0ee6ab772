"""The program as its operator runs it on the control plane, and the state that it changes."""

import hashlib
import os

from ..fail import expect
from .cluster import CONTROL_PLANE

LIMIT = 600
KINDS = "namespaces,clusterroles,clusterrolebindings"


class Installer:
    def __init__(self, cluster, program):
        self._cluster, self._program = cluster, os.path.abspath(program)

    def run(self, *argv, code=0):
        """The output of a command that ends with this code."""
        ended = self._cluster.enter(CONTROL_PLANE, [self._program, *argv], check=False, timeout=LIMIT)
        said = ended.stdout + ended.stderr
        with open(os.path.join(self._cluster.directory, "installer.log"), "a", encoding="utf-8") as log:
            log.write(f"$ tunnel-server {' '.join(argv)}\n{said}\n")
        expect(ended.returncode == code, f"tunnel-server {' '.join(argv)} ended with {ended.returncode}: {said}")
        return said


def state(cluster):
    """Everything that an installation may change, by name."""
    root = cluster.node(CONTROL_PLANE).seen_from_outside("/etc/kubernetes")
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.isfile(path):
                continue  # A socket.
            with open(path, "rb") as file:
                found[os.path.relpath(path, root)] = hashlib.sha256(file.read()).hexdigest()
    for line in cluster.kubectl.ok("get", KINDS, "-o", "name").splitlines():
        found[line] = "exists"
    found["kubeadm-config"] = cluster.kubectl.ok(
        "get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "jsonpath={.data.ClusterConfiguration}")
    return found


def difference(before, now):
    """Names of what came, went or changed between two states."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
