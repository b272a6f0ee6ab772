"""Kubernetes' programs of one version: built once, kept for the next run, and how they differ from other versions."""

import os
import re
import tempfile

from . import kubenewest, kubeoldest
from .fail import Unusable
from .shell import run

SOURCES = {"newest": kubenewest, "oldest": kubeoldest}
GIVEN = ("kube-apiserver", "kubelet")


class Kubernetes:
    """A directory of programs. `kubectl` is theirs, or else the machine's."""

    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        self.kubectl = self.program("kubectl") if _executable(directory, "kubectl") else "kubectl"
        said = run([self.program("kube-apiserver"), "--version"]).stdout
        self.version, minor = re.search(r"v(1\.(\d+)\.\S+)", said).groups()
        self.minor = int(minor)

    def program(self, name):
        return os.path.join(self.directory, name)

    def since(self, minor):
        return self.minor >= minor


def brings_kubectl(chosen):
    """Whether the chosen programs have a kubectl among them."""
    if chosen.kube_bin_dir:
        return _executable(chosen.kube_bin_dir, "kubectl")
    return "kubectl" in SOURCES[chosen.kubernetes].PROGRAMS


def find(chosen, cache_root, say):
    """The caller's programs, the cached ones, or such as are built now."""
    source = SOURCES[chosen.kubernetes]
    return _find(chosen, GIVEN, lambda: _cached(source, source.PROGRAMS, cache_root, say))


def find_kubeadm(chosen, cache_root, say, more=()):
    """The same, with all that kubeadm needs, and `more`. Only the newest version has them."""
    programs = (*kubenewest.KUBEADM, *more)
    return _find(chosen, programs, lambda: _cached(kubenewest, programs, cache_root, say))


def _find(chosen, given, cached):
    if not chosen.kube_bin_dir:
        return Kubernetes(cached())
    missing = [name for name in given if not _executable(chosen.kube_bin_dir, name)]
    if missing:
        raise Unusable(f"{chosen.kube_bin_dir} has no executable {', '.join(missing)}.")
    return Kubernetes(chosen.kube_bin_dir)


def _cached(source, programs, cache_root, say):
    """Build beside the cache and rename, so an interrupted build never looks like a finished one."""
    cached = os.path.join(cache_root, f"kubernetes-{source.VERSION}")
    missing = [name for name in programs if not _executable(cached, name)]
    if missing:
        say(f"building {', '.join(missing)} {source.VERSION}; this is done once and takes minutes")
        os.makedirs(cached, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache_root) as work:
            out = os.path.join(work, "out")
            os.makedirs(out)
            source.build(missing, work, out)
            for name in missing:
                os.rename(os.path.join(out, name), os.path.join(cached, name))
    return cached


def _executable(directory, name):
    return os.access(os.path.join(directory, name), os.X_OK)
