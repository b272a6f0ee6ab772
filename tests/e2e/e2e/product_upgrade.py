"""`helm upgrade` to the images of the previous release and back, under load: no dial fails.

There has been no release yet: unless --previous-bin-dir names its programs, `previous` is the same image by another tag.
The DaemonSet replaces its pod all the same. The node has one agent, so a moment without any fails a dial.

The kube-apiserver keeps its connection to a webhook, which the old agent cuts at the end of its grace period. A call
that is in flight at that moment is lost. It is no dial; at most one for each frontend is counted and not a failure.
"""

import json
import os
import re
import threading
import time
from typing import NamedTuple

from . import objects, wait
from .checks.follower import Follower
from .fail import expect
from .helm import CHART
from .product_image import DEPLOY

PREVIOUS = "previous"
# Seconds for which the old agent's connections may go on. Two upgrades wait for it.
GRACE = 5
LIMIT = 60
# How the kube-apiserver reports a connection that ended under a call. A failed dial is named as such.
CUT = re.compile(r'": (EOF|unexpected EOF|(read|write) [^"]*(connection reset by peer|broken pipe))$')


def version():
    """Of the images, and the chart's default tag."""
    with open(os.path.join(DEPLOY, "chart", "Chart.yaml"), encoding="utf-8") as file:
        return re.search(r"^appVersion: (\S+)$", file.read(), re.MULTILINE).group(1)


def checks(world, kubectl, helm, namespace):
    """Verdicts for each of the two directions."""
    for tag in (PREVIOUS, version()):
        upgrade = Upgrade(world, kubectl, helm, namespace, tag)
        check = world.report.check
        if check("chart", f"helm upgrade to {tag}, under load", upgrade.run):
            check("chart", f"no dial failed during the upgrade to {tag}", upgrade.no_failure)
            check("chart", f"logs -f outlives the upgrade to {tag} by the grace period", upgrade.followed)


class Upgrade:
    """One rollout with the load around it."""

    def __init__(self, world, kubectl, helm, namespace, tag):
        self._contexts, self._kubectl, self._helm = world.contexts, kubectl, helm
        self._namespace, self._tag = namespace, tag
        self._loads, self._followers, self._lives = [], [], []
        # Times: of the last look that saw the old pod whole, and from which on its connections may be cut.
        self._whole = self._cut_from = None

    def run(self):
        """From before the upgrade until the old pod is gone and every loop has made another round."""
        [old] = self._pods()
        self._followers = [Follower(ctx) for ctx in self._contexts]
        self._loads = [load(ctx, self._tag) for ctx in self._contexts for load in (Exec, Webhook)]
        try:
            self._round()
            self._whole = time.time()
            self._helm.ok("upgrade", "tunnel", CHART, "--reuse-values", "--set", f"image.tag={self._tag}")
            wait.until("the old pod is asked to end", lambda: self._is_asked(old), LIMIT)
            self._cut_from, passed = self._whole + GRACE - 2, time.time() - self._whole
            asked = time.monotonic() - passed
            wait.until("the old pod is gone", lambda: old not in self._pods(), LIMIT)
            self._kubectl.ok("rollout", "status", "daemonset/tunnel-agent", "-n", self._namespace,
                             f"--timeout={LIMIT}s", timeout=LIMIT + 5)
            self._round()
        finally:
            for load in self._loads:
                load.stop()
        self._lives = [follower.seconds_until_end(asked, GRACE + 10) for follower in self._followers]
        return ", ".join(f"{load.name} {load.rounds}" for load in self._loads)

    def no_failure(self):
        cut, failed = [], []
        for load in self._loads:
            for failure in load.failures:
                (cut if load.is_cut(failure, self._cut_from) else failed).append(failure)
        total = sum(load.rounds for load in self._loads)
        expect(not failed, f"{len(failed)} of {total} failed:\n" + "\n".join(map(str, sorted(failed))))
        expect(len(cut) <= len(self._contexts), f"{len(cut)} calls were cut:\n" + "\n".join(map(str, sorted(cut))))
        return f"of {total}; {len(cut)} calls were in flight when the old agent ended"

    def followed(self):
        expect(min(self._lives) >= GRACE - 2, f"it ended {min(self._lives):.1f} s after the old agent was asked to end")
        ends = zip(self._lives, self._followers)
        return "ended after " + ", ".join(f"{seconds:.1f} s with exit code {follower.code}" for seconds, follower in ends)

    def _round(self):
        """A whole attempt of each loop, begun after this was called."""
        goals = [(load, load.rounds + 2) for load in self._loads]
        wait.until("the loops go on", lambda: all(load.rounds >= goal for load, goal in goals), LIMIT)

    def _is_asked(self, old):
        """Notes the last look that saw the old pod whole: on a busy machine looks take longer than the agent's grace."""
        looked = time.time()
        if self._pods().get(old, True):
            return True
        self._whole = looked
        return False

    def _pods(self):
        """Whether they are being deleted, by name."""
        found = json.loads(self._kubectl.ok(
            "get", "pods", "-n", self._namespace, "-l", "app.kubernetes.io/name=tunnel-agent", "-o", "json"))
        return {pod["metadata"]["name"]: "deletionTimestamp" in pod["metadata"] for pod in found["items"]}


class Failure(NamedTuple):
    """A command that failed."""

    ended: float
    load: str
    text: str

    def __str__(self):
        return f"{time.strftime('%H:%M:%S', time.gmtime(self.ended))} {self.load}: {self.text[-300:]}"


class Load:
    """One command after the other, without a pause and without a second attempt."""

    def __init__(self, ctx, tag):
        self.name, self.rounds, self.failures = f"{type(self).__name__.lower()}/{ctx.frontend}", 0, []
        self._ctx, self._tag, self._stopping = ctx, tag, threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self):
        self._stopping.set()
        self._thread.join(60)

    def _loop(self):
        while not self._stopping.is_set():
            try:
                result = self.attempt()
                problem = result.stderr.strip() if result.returncode else None
            except Exception as error:  # noqa: BLE001 - a command that hangs is a failure like any other
                problem = str(error)
            if problem is not None:
                self.failures.append(Failure(time.time(), self.name, problem))
            self.rounds += 1


class Exec(Load):
    """A new connection of the kube-apiserver to the kubelet each time."""

    def attempt(self):
        return self._ctx.kubectl.try_("exec", "box", "--", "echo")

    def is_cut(self, _failure, _since):
        return False


class Webhook(Load):
    """Over the connection that the kube-apiserver keeps."""

    def attempt(self):
        name = f"allowed-{self._tag}-{self.rounds}-{self._ctx.tag}"
        return self._ctx.kubectl.try_("create", "-f", "-", stdin=objects.config_map(name))

    def is_cut(self, failure, since):
        return failure.ended >= since and CUT.search(failure.text)
