"""helm as deploy/tools installs it, against one kube-apiserver."""

import os
import subprocess

from .fail import expect
from .product_image import DEPLOY
from .shell import run

CHART = os.path.join(DEPLOY, "chart")


def find():
    """The program that deploy/lint uses; the first call downloads it."""
    script = ". deploy/tools; helm_and_kubectl; command -v helm"
    return run(["bash", "-euc", script], cwd=os.path.dirname(DEPLOY), timeout=300).stdout.strip()


class Helm:
    """Every command runs in one namespace."""

    def __init__(self, cluster, namespace):
        self._command = [find(), "--kubeconfig", cluster.apis[cluster.frontends[0]].kubeconfig, "--namespace", namespace]
        self._environment = {**cluster.processes.environment, "HOME": cluster.directory}
        self._version = cluster.kubernetes.version

    def template(self, release, values):
        return self.ok("template", release, CHART, "--kube-version", self._version, "--values", values)

    def ok(self, *arguments, timeout=120):
        try:
            result = run([*self._command, *arguments], check=False, timeout=timeout, env=self._environment)
        except subprocess.TimeoutExpired:
            expect(False, f"helm {' '.join(map(str, arguments))}: did not end within {timeout} s")
        expect(result.returncode == 0, f"helm {' '.join(map(str, arguments))}: exit code {result.returncode}: "
                                       f"{(result.stderr or result.stdout).strip()[-1500:]}")
        return result.stdout
