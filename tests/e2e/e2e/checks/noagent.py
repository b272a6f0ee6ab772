"""No agent is connected: the cluster lives, and what needs the node fails at once with a reason."""

import re
import socket
import time

from ..cluster import NODE
from ..fail import CheckFailed, expect

# A dial waits two seconds for the successor of an agent that has just left. kubectl takes a few on a busy machine. A
# dial that hangs until a time limit would take ten or more.
FAST_SECONDS = 8
KUBELET_PORT = 10250


def fails_fast(ctx):
    cluster_lives(ctx)
    _expect_isolated(ctx.cluster.network.node)
    started = time.monotonic()
    result = ctx.kubectl.try_("logs", "box", timeout=40)
    seconds = time.monotonic() - started
    expect(result.returncode != 0, "kubectl logs worked without an agent: something else leads to the node")
    expect("No agent available" in result.stderr, f"the reason is missing: {result.stderr.strip()}")
    expect(seconds <= FAST_SECONDS, f"kubectl logs took {seconds:.1f} s to fail")
    return f"kubectl logs failed after {seconds:.1f} s"


def names_the_lost(ctx):
    """Where the agent was a moment ago, the person is told who is missing and since when."""
    started = time.monotonic()
    result = ctx.kubectl.try_("logs", "box", timeout=40)
    said = result.stderr.strip()
    expect(result.returncode != 0, "kubectl logs worked without an agent")
    expect(re.search(rf"agent {NODE} last seen \d+s ago", said), f"kubectl said {said!r}")
    expect(time.monotonic() - started <= FAST_SECONDS, "kubectl logs took long to fail")
    return said[-160:]


def cluster_lives(ctx):
    """What needs no node works whatever happens to the tunnel."""
    expect(NODE in ctx.kubectl.ok("get", "nodes"), "kubectl get nodes does not show the node")


def _expect_isolated(address):
    """Without this, everything below could pass with no tunnel at all."""
    try:
        socket.create_connection((address, KUBELET_PORT), timeout=1).close()
    except TimeoutError:
        return
    raise CheckFailed("the control plane can open a connection to the kubelet: the firewall does not work")
