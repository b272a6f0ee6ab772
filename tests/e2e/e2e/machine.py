"""What the suite needs of the machine: root, namespaces and a few Debian packages."""

import os
import shutil

from .fail import Unusable
from .shell import CommandFailed, run

# A program (or file) and the package that brings it. Where the program is there, nothing is installed.
NEEDS = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "/usr/lib/cni/host-local": "containernetworking-plugins",
    "busybox": "busybox-static",
    "ip": "iproute2",
    "iptables": "iptables",
    "openssl": "openssl",
    "go": "golang-go",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "tar": "tar",
}
# apt-get does not wait for another one. Further runs and deploy/tools take the same lock.
APT = ("flock", "/var/cache/apt/tunnel.lock", "apt-get")


def prepare(say, with_kubectl, with_strace):
    """Check the rights, then install what is missing; one sentence when that cannot be done."""
    if os.geteuid() != 0:
        raise Unusable("The suite makes network namespaces and runs a container runtime: run it as root.")
    _add_system_paths()
    needs = {**NEEDS, **({"kubectl": "kubernetes-client"} if with_kubectl else {}), **({"strace": "strace"} if with_strace else {})}
    _install(needs, say)
    _try_namespaces()


def _add_system_paths():
    """A login shell's PATH may lack the sbin directories where iptables and others live."""
    path = os.environ.get("PATH", "").split(":")
    os.environ["PATH"] = ":".join(path + [d for d in ("/usr/local/sbin", "/usr/sbin", "/sbin") if d not in path])


def _missing(needs):
    return sorted({package for need, package in needs.items() if not _present(need)})


def _present(need):
    return os.path.exists(need) if need.startswith("/") else shutil.which(need) is not None


def _install(needs, say):
    packages = _missing(needs)
    if not packages:
        return
    wanted = " ".join(packages)
    if not shutil.which("apt-get"):
        raise Unusable(f"Install the programs of these Debian packages, there is no apt-get to do it: {wanted}.")
    say(f"installing {wanted}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        run([*APT, "update"], timeout=900, env=environment)
        run([*APT, "install", "-y", "--no-install-recommends", *packages], timeout=900, env=environment)
    except CommandFailed as error:
        raise Unusable(f"Install these Debian packages, apt-get could not: {wanted} ({error}).") from error
    still = _missing(needs)
    if still:
        raise Unusable(f"These packages were installed and yet their programs are missing: {' '.join(still)}.")


def _try_namespaces():
    try:
        run(["unshare", "--net", "--mount", "--pid", "--fork", "true"])
    except CommandFailed as error:
        raise Unusable(f"Network, mount and process namespaces are needed and this machine refuses them ({error}).") from error
