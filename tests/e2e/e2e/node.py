"""The node of the suite's usual cluster: a host, and a kubelet that is configured here."""

import json
import os

from . import kubeconfig, objects
from .host import Host


class Node(Host):
    """A host with a kubelet."""

    def start_kubelet(self, kubernetes, api_url, pki, cgroup):
        config = self._path("kubelet.json")
        with open(config, "w", encoding="utf-8") as file:
            json.dump({**self._kubelet_config(pki, cgroup), **_since_the_oldest(kubernetes)}, file, indent=1)
        with open(self.seen_from_outside(os.path.join("/var/log", objects.NODE_LOG)), "w", encoding="ascii") as file:
            file.write(objects.NODE_LOG_TEXT)
        credentials = kubeconfig.write(self._path("kubelet.conf"), api_url, pki.cluster.certificate, *pki.kubelet)
        self._start("kubelet", [
            *self.enter(), kubernetes.program("kubelet"), "--config", config, "--kubeconfig", credentials,
            "--root-dir", self._path("kubelet"), "--hostname-override", self.name,
            "--node-ip", self.network.node, *([] if kubernetes.since(24) else ["--container-runtime", "remote"]),
            "--container-runtime-endpoint", f"unix://{self.socket}", "--v", "1"])

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


def _since_the_oldest(kubernetes):
    """Configuration that older kubelets do not know. The newest refuses cgroup v1 unless told otherwise."""
    fields = {"failCgroupV1": False} if kubernetes.since(31) else {}
    return {**fields, **({"enableSystemLogQuery": True} if kubernetes.since(36) else {})}
