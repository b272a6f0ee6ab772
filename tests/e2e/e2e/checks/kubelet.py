"""What a kubelet tells of its node beyond logs: the measurements that autoscalers and dashboards read, and files."""

import json

from .. import objects, wait
from ..cluster import NODE
from ..fail import expect

PROXY = f"/api/v1/nodes/{NODE}/proxy"
PATIENCE = 30


def measurements(ctx):
    """The resource metrics, the summary and cAdvisor's metrics know the pod. A pod is measured some time after its start."""
    for path, wanted in (("metrics/resource", "pod_memory_working_set_bytes{"), ("metrics/cadvisor", "container_memory_working_set_bytes{")):
        wait.until(f"{path} has the pod", lambda: _has_box(ctx.kubectl.raw(f"{PROXY}/{path}"), wanted), PATIENCE, pause=1)
    summary = json.loads(ctx.kubectl.raw(f"{PROXY}/stats/summary"))
    expect(summary["node"]["nodeName"] == NODE, f"the summary is of {summary['node']['nodeName']}")
    expect("box" in {pod["podRef"]["name"] for pod in summary["pods"]}, "the summary lacks the pod")


def _has_box(metrics, name):
    return any(line.startswith(name) and 'pod="box"' in line for line in metrics.splitlines())


def node_logs(ctx):
    """A file of the node's log directory, as `kubectl get --raw` shows it. The query is a path in that directory."""
    got = ctx.kubectl.raw(f"{PROXY}/logs/?query=./{objects.NODE_LOG}")
    expect(got == objects.NODE_LOG_TEXT, f"{len(got)} bytes, {len(objects.NODE_LOG_TEXT)} were written: {got[-200:]!r}")
