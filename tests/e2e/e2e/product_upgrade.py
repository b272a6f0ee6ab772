"""`helm upgrade` to the images of the previous release and back, under load: no dial fails.

There has been no release yet: unless --previous-bin-dir names its programs, `previous` is the same image by another tag.
The DaemonSet replaces its pod all the same. The node has one agent, so a moment without any fails a dial.
"""

import json
import os
import re
import threading
import time

from . import objects, wait
from .checks.follower import Follower
from .fail import expect
from .helm import CHART
from .product_image import DEPLOY

PREVIOUS = "previous"
# Seconds for which the old agent's connections may go on. Two upgrades wait for it.
GRACE = 10
LIMIT = 60


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
        self._loads, self._lives = [], []

    def run(self):
        """From before the upgrade until the old pod is gone and every loop has made another round."""
        [old] = self._pods()
        followers = [Follower(ctx) for ctx in self._contexts]
        self._loads = [load(ctx, self._tag) for ctx in self._contexts for load in (Exec, Webhook)]
        try:
            self._round()
            self._helm.ok("upgrade", "tunnel", CHART, "--reuse-values", "--set", f"image.tag={self._tag}")
            wait.until("the old pod is asked to end", lambda: self._pods().get(old), LIMIT)
            asked = time.monotonic()
            wait.until("the old pod is gone", lambda: old not in self._pods(), LIMIT)
            self._kubectl.ok("rollout", "status", "daemonset/tunnel-agent", "-n", self._namespace,
                             f"--timeout={LIMIT}s", timeout=LIMIT + 5)
            self._round()
        finally:
            for load in self._loads:
                load.stop()
        self._lives = [follower.seconds_until_end(asked, GRACE + 10) for follower in followers]
        return ", ".join(f"{load.name} {load.rounds}" for load in self._loads)

    def no_failure(self):
        failures = sorted(failure for load in self._loads for failure in load.failures)
        expect(not failures, f"{len(failures)} of {sum(load.rounds for load in self._loads)} failed:\n" + "\n".join(failures))

    def followed(self):
        expect(min(self._lives) >= GRACE - 2, f"it ended {min(self._lives):.1f} s after the old agent was asked to end")
        return f"ended after {', '.join(f'{seconds:.1f}' for seconds in self._lives)} s"

    def _round(self):
        """A whole attempt of each loop, begun after this was called."""
        goals = [(load, load.rounds + 2) for load in self._loads]
        wait.until("the loops go on", lambda: all(load.rounds >= goal for load, goal in goals), LIMIT)

    def _pods(self):
        """Whether they are being deleted, by name."""
        found = json.loads(self._kubectl.ok("get", "pods", "-n", self._namespace, "-l", "app.kubernetes.io/name=tunnel-agent", "-o", "json"))
        return {pod["metadata"]["name"]: "deletionTimestamp" in pod["metadata"] for pod in found["items"]}


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
            began = time.time()
            try:
                result = self.attempt()
                problem = result.stderr.strip() if result.returncode else None
            except Exception as error:  # noqa: BLE001 - a command that hangs is a failure like any other
                problem = str(error)
            if problem is not None:
                stamp = time.strftime("%H:%M:%S", time.gmtime(began))
                self.failures.append(f"{stamp} {self.name} after {time.time() - began:.1f} s: {problem[-300:]}")
            self.rounds += 1


class Exec(Load):
    """A new connection of the kube-apiserver to the kubelet each time."""

    def attempt(self):
        return self._ctx.kubectl.try_("exec", "box", "--", "echo")


class Webhook(Load):
    """The kube-apiserver keeps its connection, until the old agent ends."""

    def attempt(self):
        name = f"allowed-{self._tag}-{self.rounds}-{self._ctx.tag}"
        return self._ctx.kubectl.try_("create", "-f", "-", stdin=objects.config_map(name))
