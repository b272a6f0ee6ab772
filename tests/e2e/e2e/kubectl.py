"""kubectl against one kube-apiserver."""

import copy
import os
import subprocess

from .fail import CheckFailed, expect
from .shell import run


class TooSlow(CheckFailed):
    """A kubectl that had to be killed."""


class Kubectl:
    """Commands get the run's mark in their environment, so a killed suite leaves none behind."""

    def __init__(self, program, config, directory, environment, enter=()):
        """`enter` is the prefix of a command in the network of the kube-apiserver; it has to replace itself by kubectl."""
        self._prefix = [*enter, program, "--kubeconfig", config, "--cache-dir", os.path.join(directory, "kubectl-cache")]
        self._environment = {**environment, "HOME": directory}

    def over_spdy(self):
        """The same, without the WebSockets that kubectl speaks from 1.31 on."""
        other = copy.copy(self)
        other._environment = {**self._environment, **{f"KUBECTL_{what}_WEBSOCKETS": "false" for what in ("REMOTE_COMMAND", "PORT_FORWARD")}}
        return other

    def args(self, *arguments):
        return [*self._prefix, *(str(a) for a in arguments)]

    def try_(self, *arguments, timeout=30, stdin=None):
        """Run to the end, whatever the exit code."""
        try:
            return run(self.args(*arguments), check=False, timeout=timeout, stdin=stdin, env=self._environment)
        except subprocess.TimeoutExpired:
            raise TooSlow(f"kubectl {' '.join(map(str, arguments))}: did not end within {timeout} s") from None

    def ok(self, *arguments, timeout=30, stdin=None):
        """Run to the end, which must be exit code 0; returns what it printed."""
        result = self.try_(*arguments, timeout=timeout, stdin=stdin)
        expect(result.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: exit code {result.returncode}: "
                                       f"{result.stderr.strip()[-1500:]}")
        return result.stdout

    def raw(self, path, timeout=30):
        return self.ok("get", "--raw", path, timeout=timeout)

    def start(self, *arguments, wrapper=(), **how):
        """Start without waiting. The caller ends it, best with `with`. A wrapper must replace itself by kubectl."""
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        return Running([*wrapper, *self.args(*arguments)], env=self._environment, **how)


class Running(subprocess.Popen):
    """A kubectl that is killed when its block is left, so that a failed check leaves nothing running."""

    def __exit__(self, *details):
        self.kill()
        self.wait()
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
