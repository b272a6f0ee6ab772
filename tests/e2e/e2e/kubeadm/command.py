"""The program as its operator runs it on the control plane, and the state that it changes."""

import hashlib
import os
import signal
import subprocess
import threading

from ..fail import expect
from ..processes import tail
from .cluster import CONTROL_PLANE

LIMIT = 600
KINDS = "namespaces,clusterroles,clusterrolebindings"
# Lines that tell of a step that was made. The others are checks, diffs and waits.
STEPS = ("wrote ", "applied ", "changed ", "removed ", "ready ", "verified ", "rolling ")


class Installer:
    def __init__(self, cluster, program, node=CONTROL_PLANE):
        self._cluster, self._program, self._node = cluster, os.path.abspath(program), node
        self._log = os.path.join(cluster.directory, "installer.log")

    def run(self, *argv, code=0, each=lambda line: None):
        """The output of a command that ends with this code. `each` sees its lines as they come."""
        said, ended = self._run(argv, each)
        expect(ended == code, f"tunnel-server {' '.join(argv)} ended with {ended}: {self._why(said)}")
        return said

    def kill_at_each_line(self, *argv):
        """Runs the command until it ends by itself; each run before is killed at its first new step. Returns their number."""
        seen, killed = set(), 0
        while True:
            def new_step(line):
                if not line.startswith(STEPS) or line in seen:
                    return False
                seen.add(line)
                return True

            said, ended = self._run(argv, new_step)
            if ended != -signal.SIGKILL:
                expect(ended == 0, f"tunnel-server {' '.join(argv)}, after {killed} that were killed, ended with {ended}: {self._why(said)}")
                return killed
            killed += 1

    def _why(self, said):
        """The output, and the end of the log, which has the standard error as well."""
        return "\n".join([said, "end of installer.log:", *tail(self._log, 5)])

    def _run(self, argv, each):
        """Kills the command at a line for which `each` is true."""
        command = self._cluster.node(self._node).command([self._program, *argv])
        environment = self._cluster.processes.environment
        said = ""
        with open(self._log, "a", encoding="utf-8") as log, subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            log.write(f"{self._node}$ tunnel-server {' '.join(argv)}\n")
            log.flush()
            limit = threading.Timer(LIMIT, process.kill)
            limit.start()
            for line in process.stdout:
                said += line
                log.write(line)
                if each(line):
                    # The program ends with nsenter, its parent.
                    process.kill()
            process.wait()
            limit.cancel()
        return said, process.returncode


def state(cluster, node=CONTROL_PLANE):
    """Everything that an installation on the node may change, by name."""
    root = cluster.node(node).seen_from_outside("/etc/kubernetes")
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


def unchanged(cluster, before, but=()):
    differ = set(difference(before, state(cluster))) - set(but)
    expect(not differ, f"these differ: {differ}")
