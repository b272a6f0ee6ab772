"""Configuration files of kubeadm. Documents are JSON, which is YAML."""

import json

from .. import lan

API = "kubeadm.k8s.io/v1beta4"
# cgroup v1, which some of the machines have that run the suite, and swap that others have.
IGNORED_PREFLIGHT_ERRORS = ["SystemVerification", "Swap", "NumCPU", "Mem"]
# Its default is in /usr, which hosts share with the machine.
VOLUME_PLUGINS = "/var/lib/kubelet/volume-plugins"


def init(version, host, api_server=None, shared=None):
    """`api_server` is the section of that name, `shared` a name for all kube-apiservers. No kube-proxy and no DNS: pods that need neither a Service nor a name are enough here, and cost less time."""
    # Without a service proxy the kube-apiserver has to dial the pods behind a Service by itself.
    api_server = api_server or {}
    api_server = {**api_server, "extraArgs": [*_arguments({"enable-aggregator-routing": "true"}), *api_server.get("extraArgs", [])]}
    endpoint = {"controlPlaneEndpoint": shared} if shared else {}
    return _documents(
        {"apiVersion": API, "kind": "InitConfiguration", "nodeRegistration": _registration(host),
         "localAPIEndpoint": {"advertiseAddress": host.network.node}},
        {"apiVersion": API, "kind": "ClusterConfiguration", "kubernetesVersion": f"v{version}", **endpoint,
         "networking": {"serviceSubnet": lan.SERVICES}, "apiServer": api_server, "proxy": {"disabled": True}, "dns": {"disabled": True},
         # The data lives for minutes, and disks of CI machines are slow.
         "etcd": {"local": {"extraArgs": _arguments({"unsafe-no-fsync": "true"})}},
         "controllerManager": {"extraArgs": _arguments({"flex-volume-plugin-dir": VOLUME_PLUGINS})}},
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
         "cgroupDriver": "cgroupfs", "failCgroupV1": False, "enforceNodeAllocatable": [], "failSwapOn": False,
         "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
         "volumePluginDir": VOLUME_PLUGINS})


def join(host, endpoint, token, authority_hash, certificate_key=None):
    """With the key of the uploaded certificates as a control plane, else as a worker."""
    discovery = {"apiServerEndpoint": endpoint, "token": token, "caCertHashes": [authority_hash]}
    control_plane = {"controlPlane": {
        "localAPIEndpoint": {"advertiseAddress": host.network.node}, "certificateKey": certificate_key}} if certificate_key else {}
    return _documents({
        "apiVersion": API, "kind": "JoinConfiguration", "nodeRegistration": _registration(host),
        "discovery": {"bootstrapToken": discovery}, **control_plane})


def _registration(host):
    """Each kubelet has a control group of its own: it kills the pods below it that it does not know."""
    flags = {"node-ip": host.network.node, "cgroup-root": f"/{host.cgroup}"}
    return {"imagePullPolicy": "Never", "kubeletExtraArgs": _arguments(flags),
            "ignorePreflightErrors": IGNORED_PREFLIGHT_ERRORS}


def _arguments(flags):
    return [{"name": name, "value": value} for name, value in flags.items()]


def _documents(*documents):
    return "---\n".join(json.dumps(document, indent=1) + "\n" for document in documents)
