"""The names of `--only`, in the order in which the checks run."""

from . import aggregated, attach, copy, disruption, exec, forward, leases, logs, noagent, proxy, tokens, webhook

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
    "aggregated": [("aggregated API", aggregated.get_and_list)],
    "refusals": [
        ("a refused connection is named", proxy.refused),
        ("an unreachable address is named", proxy.unreachable),
    ],
    "connections": [("port-forward, 50 connections at once", forward.many_connections)],
    "download": [("port-forward, download of 256 MiB", forward.download)],
    "cp": [("cp of 256 MiB both ways", copy.upload_and_download)],
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
SCENARIOS = {"tokens": tokens.scenario, "leases": leases.scenario}
NAMES = [*PASS, *SCENARIOS]
