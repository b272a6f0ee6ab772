"""The newest Kubernetes, built from the Go module in `tests/e2e/kubernetes`, whose go.mod pins the version."""

import os
import re

from .fail import Unusable
from .shell import CommandFailed, run

MODULE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "kubernetes")
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
KUBEADM = (*PROGRAMS, "kubeadm", "etcd")  # A cluster that kubeadm makes.
KONNECTIVITY = ("proxy-server", "proxy-agent")
# Without debugging information, and with more garbage before each collection, Go compiles in three quarters of the time.
# The largest package takes 0.8 GB.
QUICK, COLLECT = "-gcflags=all=-dwarf=false", "800"
VERSION_PACKAGE = "k8s.io/component-base/version"


def _pinned():
    with open(os.path.join(MODULE, "go.mod"), encoding="utf-8") as file:
        return re.search(r"^\s*k8s\.io/kubernetes v(\S+)$", file.read(), re.MULTILINE).group(1)


VERSION = _pinned()


def build(programs, _work, out):
    """Modules and compiled packages go to Go's own caches, so a further program takes seconds to minutes only."""
    major, minor, _ = VERSION.split(".")
    stamps = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {VERSION_PACKAGE}.{k}={v}" for k, v in stamps.items())])
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "GOGC": COLLECT}
    command = ["nice", "go", "build", QUICK, "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out + "/"]
    try:
        run([*command, *(f"./{name}" for name in programs)], timeout=3600, cwd=MODULE, env=environment)
    except CommandFailed as error:
        raise Unusable(f"Go cannot build Kubernetes {VERSION} here; use --kube-bin-dir ({error}).") from error
