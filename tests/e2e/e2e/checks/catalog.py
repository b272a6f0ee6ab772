"""The names of `--only`, in the order in which the checks run."""

from . import (
    aggregated, attach, conversion, copy, debug, disruption, egress, exec, forward, kubelet, leases, logs, noagent,
    proxy, streaming, tokens, webhook)
from .. import product_chart, product_image
from ..kubeadm import controlplanes, identity, installer, migration, scenario as kubeadm
from .streaming import over_spdy

# One after another in each frontend, the frontends at once.
STEPS = {
    "logs": [("logs", logs.once)],
    "exec": [
        ("exec exit code 0", exec.exit_code("true")),
        ("exec exit code 1", exec.exit_code("exit 1")),
        ("exec exit code 137", exec.exit_code("kill -9 $$")),
    ],
    "terminal": [("exec -it with a terminal", exec.terminal)],
    "attach": [("attach", attach.attach)],
    "node-proxy": [("node proxy", proxy.node)],
    "pod-proxy": [("pod proxy", proxy.pod)],
    "service-proxy": [("service proxy", proxy.service)],
    "upgrade": [("upgraded connection through the pod proxy", proxy.upgraded)],
    "webhook": [("service webhook allows and denies", webhook.allow_and_deny)],
    "conversion": [("conversion webhook", conversion.convert)],
    "aggregated": [("aggregated API", aggregated.get_and_list)],
    "measurements": [("resource metrics, summary and cAdvisor", kubelet.measurements)],
    "node-logs": [("node log query", kubelet.node_logs)],
    "debug": [("debug in an ephemeral container", debug.ephemeral_container)],
    "egress-metrics": [("the API server counts its dials", egress.counted)],
    "refusals": [
        ("a refused connection is named", proxy.refused),
        ("an unreachable address is named", proxy.unreachable),
    ],
    "connections": [("port-forward, 50 connections at once", forward.many_connections)],
    "download": [("port-forward, download of 256 MiB", forward.download)],
    "cp": [("cp of 256 MiB both ways", copy.both_ways(256))],
    "websockets": [("exec and port-forward speak WebSocket", streaming.websockets)],
    "spdy": [
        ("exec and port-forward speak SPDY", over_spdy(streaming.spdy)),
        ("exec over SPDY, exit code 0", over_spdy(exec.exit_code("true"))),
        ("exec over SPDY, exit code 137", over_spdy(exec.exit_code("kill -9 $$"))),
        ("exec -it over SPDY", over_spdy(exec.terminal)),
        ("attach over SPDY", over_spdy(attach.attach)),
        ("port-forward over SPDY, 50 connections at once", over_spdy(forward.many_connections)),
        ("cp over SPDY of 32 MiB both ways", over_spdy(copy.both_ways(32))),
    ],
}
# A minute long, beside the steps of its frontend: their load must not delay a line.
BESIDE = {"follow": ("logs -f for 60 s", logs.follow)}
# Before the agent starts.
BEFORE = {"no-agent": ("no agent: a clear error at once", noagent.fails_fast)}
# After all the others, each for all frontends together.
DISRUPTIONS = {
    "agent-killed": disruption.agent_killed,
    "agent-replaced": disruption.agent_replaced,
    "server-killed": disruption.server_killed,
    "server-terminated": disruption.server_terminated,
}
PASS = [*BEFORE, *BESIDE, *STEPS, *DISRUPTIONS]
# After all passes, once: the server and the agent are started anew with other flags.
SCENARIOS = {"tokens": tokens.scenario, "leases": leases.scenario, "image": product_image.scenario,
             "chart": product_chart.scenario}
# Each in a cluster of its own, and only when it is asked for.
CLUSTERS = {"kubeadm": kubeadm.scenario, "identity": identity.scenario, "installer": installer.scenario,
            "migration": migration.scenario, "controlplanes": controlplanes.scenario}
# The minor version of Kubernetes 1 from which on a check works. kubectl speaks WebSockets from 1.31 on. An older
# kube-apiserver than 1.24 that is built by today's Go panics in its reflection when there are custom resources. The
# module of `kubernetes/` has the programs of kubeadm's cluster.
SINCE = {"conversion": 24, "chart": 25, "debug": 25, "egress-metrics": 27, "websockets": 31, "spdy": 31, "node-logs": 36,
         "kubeadm": 37, "identity": 37, "installer": 37, "migration": 37, "controlplanes": 37}
USUAL = [*PASS, *SCENARIOS]
NAMES = [*USUAL, *CLUSTERS]
