"""The node: containerd and a kubelet in namespaces of their own."""

import json
import os
import signal
import sys

from . import kubeconfig, node_init, objects, wait
from .shell import run


class Node:
    """Starts in the order of what needs what. Everything it writes is below `directory`."""

    def __init__(self, name, directory, network, processes):
        self.name, self.directory, self.network, self.processes = name, directory, network, processes
        self._pid, self._programs = None, []
        self.socket = os.path.join(directory, "containerd.sock")
        os.makedirs(directory)

    def start_init(self):
        """The namespaces. Network only by `nsenter`; processes and mounts are new."""
        init = self._start("node-init", [
            *self.network.enter(), "unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private",
            sys.executable, node_init.__file__, self.directory])
        pid_file = os.path.join(self.directory, "init.pid")

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
                program.wait(10)

    def enter(self):
        """The prefix of a command on the node; `nsenter` forks here, so its pid is not the command's."""
        return ["nsenter", f"--target={self._pid}", "--net", "--mount", "--pid"]

    def seen_from_outside(self, path):
        """The name, for programs with other mounts, of a file that may lie on a mount of the node's own."""
        return f"/proc/{self._pid}/root{path}"

    def start_containerd(self):
        config = os.path.join(self.directory, "containerd.toml")
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

    def start_kubelet(self, kubernetes, api_url, pki, cgroup):
        config = os.path.join(self.directory, "kubelet.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({**self._kubelet_config(pki, cgroup), **_since_the_oldest(kubernetes)}, file, indent=1)
        with open(self._path(os.path.join("var-log", objects.NODE_LOG)), "w", encoding="ascii") as file:
            file.write(objects.NODE_LOG_TEXT)
        credentials = kubeconfig.write(
            os.path.join(self.directory, "kubelet.conf"), api_url, pki.cluster.certificate, *pki.kubelet)
        self._start("kubelet", [
            *self.enter(), kubernetes.program("kubelet"), "--config", config, "--kubeconfig", credentials,
            "--root-dir", os.path.join(self.directory, "kubelet"), "--hostname-override", self.name,
            "--node-ip", self.network.node, *([] if kubernetes.since(24) else ["--container-runtime", "remote"]),
            "--container-runtime-endpoint", f"unix://{self.socket}", "--v", "1"])

    def _start(self, name, args):
        self._programs.append(self.processes.start(name, args))
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

    def _kubelet_config(self, pki, cgroup):
        certificate, key = pki.kubelet
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": self.network.node, "healthzBindAddress": "127.0.0.1",
            "tlsCertFile": certificate, "tlsPrivateKeyFile": key,
            "authentication": {"x509": {"clientCAFile": pki.cluster.certificate}, "anonymous": {"enabled": False}},
            "cgroupDriver": "cgroupfs", "cgroupRoot": f"/{cgroup}", "enforceNodeAllocatable": [],
            "failSwapOn": False, "clusterDomain": "cluster.local", "maxPods": 40,
            "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
            "registerNode": True, "resolvConf": "",
        }

    def _path(self, name):
        return os.path.join(self.directory, name)


def _since_the_oldest(kubernetes):
    """Configuration that older kubelets do not know. The newest refuses cgroup v1 unless told otherwise."""
    fields = {"failCgroupV1": False} if kubernetes.since(31) else {}
    return {**fields, **({"enableSystemLogQuery": True} if kubernetes.since(36) else {})}


def hidden_by_node(directory):
    """Whether a work directory would lie below one that the node replaces."""
    return any(os.path.realpath(directory).startswith(path + "/") for path in node_init.PRIVATE)
