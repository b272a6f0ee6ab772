"""Agents that are known by their service-account token, which the API server reviews.

The server has no CA for agents and the agent no certificate. Programs are started on the main thread only,
see `processes`.
"""

import os
import signal

from .. import accounts, image, wait
from ..cluster import NODE
from ..fail import expect
from ..parallel import for_each
from . import logs

LIMIT = 20
NODE_NAME = "authentication.kubernetes.io/node-name"
# Reviews name the node from Kubernetes 1.30 on.
NODE_NAMED_SINCE = 30


def scenario(world):
    cluster = world.cluster
    kubectl = cluster.kubectl(cluster.frontends[0])
    accounts.create(kubectl)
    accounts.create_pod(kubectl, NODE, image.NAME)
    file = os.path.join(cluster.directory, "token")
    configure(world, file)
    world.server.start()
    world.server.wait_up()
    good = accounts.request(kubectl)
    for name, (token, reason, text) in _bad_tokens(kubectl, good, cluster).items():
        world.report.check("tokens", f"refused with its reason: {name}", lambda: _refused(world, file, token, reason, text))
    for link in world.chosen.links:
        world.report.check("tokens", f"a requested token admits on {link}", lambda: _admitted(world, file, good, link))
        _leave(world)
    world.report.check("tokens", "a projected token admits", lambda: _projected(world, kubectl))
    _leave(world)
    world.report.check("tokens", "a token of a pod proves its node, and admits", lambda: _proves_node(world, file, kubectl))
    _leave(world)
    world.report.check("tokens", "a replaced file is read again", lambda: _replaced(world, file, kubectl))
    _leave(world)
    world.report.check("tokens", "nobody is admitted while the API is away", lambda: _api_away(world, file, kubectl))
    _leave(world)
    admitted = 4 + len(world.chosen.links)
    world.report.check("tokens", "a good token costs one review", lambda: _reviews(world, admitted))
    world.server.process.end()


def _leave(world):
    """Until the server knows that the agent is gone: the next check waits for a server that has one."""
    world.agent.stop()
    world.server.wait_without_agent()


def configure(world, file):
    """Server and agent know each other by a token in this file, from their next start on."""
    write(file, "")
    world.server.authentication = [
        f"--agent-namespace={accounts.NAMESPACE}", f"--agent-service-account={accounts.ACCOUNT}",
        f"--authentication-audience={accounts.AUDIENCE}",
    ]
    world.server.more = ["--log-level=info,tunnel=debug", f"--kubeconfig={accounts.credentials(world.cluster, 'tunnel-server')}"]
    world.agent.credentials = [f"--service-account-token-path={file}"]


def write(file, token):
    with open(f"{file}.new", "w", encoding="ascii") as new:
        new.write(token + "\n")
    os.replace(f"{file}.new", file)


def _bad_tokens(kubectl, good, cluster):
    """By name: the token, the server's label for it, and what the agent is told."""
    key = cluster.pki.service_account_key
    other = "system:serviceaccount:kube-system:other"
    elsewhere = f"system:serviceaccount:default:{accounts.ACCOUNT}"
    return {
        "expired": (accounts.expired(good, key, cluster.directory), "token_expired", "which has expired"),
        "forged": (accounts.forged(good), "token_unauthenticated", "the Kubernetes API does not accept the token"),
        "for another audience": (accounts.request(kubectl, audience="vault"), "token_wrong_audience", "vault"),
        "of another account": (accounts.request(kubectl, name="other"), "token_wrong_account", other),
        "of another namespace": (accounts.request(kubectl, namespace="default"), "token_wrong_account", elsewhere),
        "no token at all": ("nothing of the kind", "token_malformed", "no service-account token"),
    }


def _refused(world, file, token, reason, text):
    """The agent's log and the server's have the reason, the server's metric counts it, and nothing is served."""
    write(file, token)
    before = _rejections(world, reason)
    server_log = world.server.process.log_size()
    world.agent.start("h2")
    agent = world.agent.process
    try:
        line = wait.until(f"the agent logs {text!r}", lambda: _line(agent.log_since(0), agent, text), LIMIT)
        wait.until("the server logs it", lambda: text in world.server.process.log_since(server_log), LIMIT)
        expect(_rejections(world, reason) > before, f"nothing is counted as {reason}")
        expect(world.server.health("/readyz") != 200, "the server has an agent")
    finally:
        world.agent.stop()
    return line


def _line(log, agent, text):
    """What the agent said last with this text, from its own start on."""
    agent.must_run()
    own = log[log.rindex("\n# ") if "\n# " in log else 0:]
    lines = [line for line in own.splitlines() if text in line and "rejected by the server" in line]
    return lines[-1].split("rejected by the server")[1].strip() if lines else None


def _admitted(world, file, token, link):
    write(file, token)
    world.agent.start(link)
    return _serves(world)


def _serves(world):
    world.server.wait_for(world.agent)
    for_each(world.contexts, logs.once)
    return f"kubectl logs works on {', '.join(ctx.frontend for ctx in world.contexts)}"


def _projected(world, kubectl):
    path = world.cluster.node.seen_from_outside(accounts.projected(kubectl, world.cluster.node))
    usual = world.agent.credentials
    world.agent.credentials = [f"--service-account-token-path={path}"]
    world.agent.start(world.link)
    world.agent.credentials = usual
    return _serves(world)


def _proves_node(world, file, kubectl):
    """The API server's review has the node, or the server reads it from the pod. The server's log has it."""
    token = accounts.request(kubectl, pod=accounts.POD)
    extra = accounts.extra(kubectl, token)
    named = [NODE] if world.cluster.kubernetes.since(NODE_NAMED_SINCE) else None
    expect(extra.get(NODE_NAME) == named, f"the review says {extra}")
    position = world.server.process.log_size()
    remark = _admitted(world, file, token, world.link)
    # A thread of the server writes its log.
    accepted = wait.until("the server logs it", lambda: [
        line for line in world.server.process.log_since(position).splitlines(keepends=True)
        if "token accepted" in line and line.endswith("\n")], LIMIT)
    expect(f'node="{NODE}"' in accepted[0] and f'pod="{accounts.POD}"' in accepted[0], f"the server logs {accepted}")
    return remark


def _replaced(world, file, kubectl):
    write(file, accounts.forged(accounts.request(kubectl)))
    before = _rejections(world, "token_unauthenticated")
    world.agent.start(world.link)
    wait.until("the first token is refused", lambda: _rejections(world, "token_unauthenticated") > before, LIMIT)
    write(file, accounts.request(kubectl))
    return _serves(world)


def _api_away(world, file, kubectl):
    """The API server that the tunnel server asks is stopped, as if its host were gone."""
    write(file, accounts.request(kubectl))
    api = next(iter(world.cluster.apis.values())).process
    before = _rejections(world, "review_failed")
    api.signal(signal.SIGSTOP)
    try:
        world.agent.start(world.link)
        wait.until("the token cannot be reviewed", lambda: _rejections(world, "review_failed") > before, LIMIT)
        expect(world.server.health("/readyz") != 200, "the server has an agent")
    finally:
        api.signal(signal.SIGCONT)
    return _serves(world)


def _reviews(world, admitted):
    """The requested token was brought again on each further link, and not reviewed again."""
    metrics = world.server.metrics()
    good = metrics.get('tunnel_server_token_reviews_total{outcome="good"}', 0)
    expect(good == admitted - (len(world.chosen.links) - 1), f"{good:g} reviews for {admitted} admissions, one token brought on every link")
    return f"{good:g} reviews for {admitted} admissions"


def _rejections(world, reason):
    samples = world.server.metrics().items()
    name = "tunnel_server_rejected_agents_total{"
    return sum(value for sample, value in samples if sample.startswith(name) and f'reason="{reason}"' in sample)
