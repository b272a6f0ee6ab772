"""A machine of a cluster: containerd in namespaces of its own, with private system directories."""

import json
import os
import signal
import sys

from . import node_init, wait
from .processes import KILLED_SECONDS
from .shell import run


class Host:
    """Starts in the order of what needs what. Everything it writes is below `directory`.

    `network` gives `enter`, the prefix of a command in the host's network, and `pods`, the addresses of its pods.
    """

    def __init__(self, name, directory, network, processes):
        self.name, self.directory, self.network, self.processes = name, directory, network, processes
        self._pid, self._programs = None, []
        self.socket = os.path.join(directory, "containerd.sock")
        os.makedirs(directory)

    def start_init(self):
        """The namespaces. Network only by `nsenter`; processes, mounts and the host's name are new."""
        init = self._start("init", [
            *self.network.enter(), "unshare", "--pid", "--fork", "--kill-child", "--uts", "--mount", "--propagation", "private",
            sys.executable, node_init.__file__, self.directory, self.name])
        pid_file = self._path("init.pid")

        def written():
            init.must_run()
            return os.path.exists(pid_file)

        wait.until("the node's first process runs", written, 20)
        with open(pid_file, encoding="ascii") as file:
            self._pid = int(file.read())

    def kill(self):
        """Kill the first process, with which the kernel kills all others on the node.

        The programs are children of `nsenter`, so they are waited for here before anybody ends that.
        """
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            for program in self._programs:
                program.wait(KILLED_SECONDS)
            self._pid = None

    def enter(self):
        """The prefix of a command on the node; `nsenter` forks here, so its pid is not the command's."""
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid", "--uts"]

    def seen_from_outside(self, path):
        """The name, for programs with other mounts, of a file that may lie on a mount of the node's own."""
        return f"/proc/{self._pid}/root{path}"

    def start_containerd(self):
        config = self._path("containerd.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(self._containerd_config())
        self._write_pod_network()
        process = self._start("containerd", [*self.enter(), "containerd", "--config", config])

        def answers():
            process.must_run()
            return self.ctr("version").returncode == 0

        wait.until("containerd answers", answers, 60)

    def ctr(self, *arguments):
        return run([*self.enter(), "ctr", "--address", self.socket, "--namespace", "k8s.io", *arguments], timeout=120)

    def _start(self, name, args):
        self._programs.append(self.processes.start(f"{self.name}-{name}", args))
        return self._programs[-1]

    def _containerd_config(self):
        path = self._path
        return f"""
version = 2
root = "{path('containerd')}"
state = "{path('containerd-state')}"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{path('containerd-opt')}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "tunnel.test/e2e:1"
  # Without CAP_SYS_RESOURCE a sandbox cannot lower its score, and dies trying.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{self._snapshotter()}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{path('cni')}"
"""

    def _snapshotter(self):
        """An overlay cannot lie on another overlay, as a work directory in a container would have it."""
        kind = run(["stat", "--file-system", "--format=%T", self.directory]).stdout.strip()
        return "native" if kind == "overlayfs" else "overlayfs"

    def _write_pod_network(self):
        os.makedirs(self._path("cni"))
        network = {
            "cniVersion": "0.4.0", "name": "e2e", "plugins": [{
                "type": "bridge", "bridge": "pods", "isGateway": True, "ipMasq": False,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": self.network.pods}]],
                         "routes": [{"dst": "0.0.0.0/0"}], "dataDir": self._path("cni-addresses")}}],
        }
        with open(os.path.join(self._path("cni"), "10-e2e.conflist"), "w", encoding="utf-8") as file:
            json.dump(network, file, indent=1)

    def _path(self, name):
        return os.path.join(self.directory, name)


def hidden(directory):
    """Whether a work directory would lie below one that hosts replace."""
    return any(os.path.realpath(directory).startswith(path + "/") for path in node_init.PRIVATE)
