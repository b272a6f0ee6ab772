"""The scenario `identity`: agents on two workers, known by their pods' tokens, and what their tokens let them serve."""

import json
import os
import time

from .. import accounts, image, kubernetes, objects, wait
from ..cluster import cache_root
from ..fail import expect
from . import agents, manual, scenario as by_hand, traced, use
from .cluster import CONTROL_PLANE, Cluster

WHERE, A, B = "identity", "worker-a", "worker-b"
LIMIT = 60
KUBELET = 10250
# Dials of a target, which with two agents to choose from all go to the right one by chance once in a million times.
DIALS = 20
# Refused by their own policy: the server looks up no names, and agents find this one in their pods' /etc/hosts.
LOOPBACK_BY_NAME = "ip6-loopback"
LATER, LATER_FIRST, LATER_SECOND, LATER_PODS, LATER_POD = "later", "10.210.0.7", "10.210.0.8", "10.211.0.0/24", "10.211.0.9"


def scenario(chosen, report):
    programs = kubernetes.find_kubeadm(chosen, cache_root(), report.say)
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        for title, body in _checks(_World(cluster, chosen.bin_dir), programs):
            # Each builds upon those before.
            if not report.check(WHERE, title, body):
                return


class _World:
    def __init__(self, cluster, bin_dir):
        self.cluster, self.kubectl, self.bin_dir = cluster, None, bin_dir
        self.agent_program = os.path.abspath(os.path.join(bin_dir, "tunnel-agent"))
        self.server, self.agents, self.pods = None, {}, {}

    def meet(self):
        """Once agents and server are there."""
        self.server = agents.Server(self.cluster)
        self.agents = {node: agents.Agent(self.cluster, node) for node in (CONTROL_PLANE, A, B)}

    def stranger(self, node, token, *flags, link="auto"):
        return agents.Stranger(self.cluster, self.agent_program, node, token, *flags, link=link)

    def kubelet(self, node):
        return f"{agents.address(self.cluster, node)}:{KUBELET}"

    def expect_served(self, dial, by, more=(), times=1):
        """Dials so often, after which the agent of `by` has counted each, and no other agent and none of `more` any."""
        asked = [*self.agents.values(), *more]
        before = [agent.dials() for agent in asked]
        for _ in range(times):
            dial()
        moved = [now.dials() - then for now, then in zip(asked, before)]
        expect(moved == [times if agent is by else 0 for agent in asked],
               f"of {times} dials for {getattr(by, 'node', 'a stranger')}, agents on {[*self.agents]} and strangers got {moved}")


def _checks(world, programs):
    yield "kubeadm makes a cluster with two workers", lambda: _cluster(world, programs)
    yield "agents without identifiers are known by their tokens as nodes", lambda: _install(world)
    yield "logs and exec reach the right node of two", lambda: _logs_and_exec(world)
    yield "a Node's pod network makes a route within seconds", lambda: _pod_networks(world)
    yield "pods are dialled by their own nodes' agents", lambda: _pods(world)
    yield "a webhook's endpoint is dialled by its own node's agent", lambda: _webhook(world)
    for link in ("quic", "h2"):
        yield f"a stolen token serves its own node alone, on {link}", lambda link=link: _stolen(world, link)
        yield f"a claim of another node's address gets nothing, on {link}", lambda link=link: _claim(world, link)
    yield from _refusals(world)
    yield "a Node that comes, changes and goes takes its routes along", lambda: _node(world)
    yield "a label of a Node changes no route", lambda: _label(world)
    yield "the policy refuses metadata and loopback by the rule's name", lambda: _policy(world)
    yield "the server connects to no target, an agent to checked addresses only", lambda: _traced(world)


def _cluster(world, programs):
    remark = by_hand.init(world.cluster, programs)
    world.kubectl = world.cluster.kubectl
    for node in (A, B):
        world.cluster.add_node(node)
        _create_pod(world, f"box-{node}", node)
    names = [f"pod/box-{node}" for node in (A, B)]
    world.kubectl.ok("wait", *names, "--for=condition=Ready", f"--timeout={LIMIT}s", timeout=LIMIT + 10)
    world.pods = {node: agents.pod_address(world.cluster, f"box-{node}") for node in (A, B)}
    return remark


def _create_pod(world, name, node):
    says = "echo hello from $NODE; exec pod serve"
    container = {"name": "main", "image": image.NAME, "imagePullPolicy": "Never", "command": ["/bin/busybox", "sh", "-c", says],
                 "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                 "readinessProbe": {"tcpSocket": {"port": objects.WEB_PORT}, "periodSeconds": 1}}
    # The account is made a moment after its namespace.
    wait.until("the pod is created", lambda: world.kubectl.try_("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [container], "terminationGracePeriodSeconds": 1}})).returncode == 0, LIMIT)


def _install(world):
    manual.import_images(world.cluster, world.bin_dir)
    manual.install(world.cluster)
    manual.activate(world.cluster)
    world.meet()
    world.server.wait_for_tunnels(len(world.agents))
    metrics = world.server.metrics()
    expect(metrics['tunnel_server_identity_mode{mode="strict"}'] == 1, "the mode is not strict")
    kinds = metrics['tunnel_server_identities{kind="node"}']
    expect(kinds == len(world.agents), f"{kinds:g} agents are known as nodes")
    for node in world.agents:
        wait.until(f"the server's log has the identity of {node}",
                   lambda node=node: f'identity=node:{node} ' in world.server.log(), LIMIT)
    wait.until("the server follows the nodes", lambda: _follows_nodes(world.server.log()), LIMIT)


def _follows_nodes(log):
    """The restart of the kube-apiserver ended the server's watches. Half a minute may pass between its attempts."""
    return log.count("nodes are followed again") >= log.count("cannot follow the nodes")


def _logs_and_exec(world):
    for node in (A, B):
        said = world.kubectl.ok("logs", f"box-{node}").strip()
        expect(said == f"hello from {node}", f"kubectl logs printed {said!r}")
        read = ["exec", f"box-{node}", "--", "sh", "-c", "echo $NODE"]

        def run(read=read, node=node):
            said = world.kubectl.ok(*read).strip()
            expect(said == node, f"kubectl exec printed {said!r}")

        # Each session is a connection of its own; logs may use one that is there.
        world.expect_served(run, world.agents[node], times=3)


def _pod_networks(world):
    """kubeadm gives nodes none here: up to now any agent dials pods."""
    target, own = f"{world.pods[A]}:{objects.WEB_PORT}", world.agents[A]
    for node in (A, B):
        network = world.cluster.node(node).network.pods
        _set_pods(world, node, network)
    return _until_served(world, target, own, 10)


def _set_pods(world, node, network):
    pods = {"spec": {"podCIDR": network, "podCIDRs": [network]}}
    world.kubectl.ok("patch", "node", node, "--type=merge", "-p", json.dumps(pods))


def _until_served(world, target, own, seconds):
    """Waits until an agent gets all dials of the target, connected or not. Returns a remark about the time."""
    started = time.monotonic()
    wait.until(f"all dials of {target} are that agent's", lambda: _share(world, target, own) == DIALS, seconds)
    return f"{time.monotonic() - started:.1f} s"


def _unserved(world, target):
    """Whether no agent gets dials of the target."""
    return all("no agent serves" in world.server.connect(target)[1] for _ in range(DIALS))


def _share(world, target, agent):
    """How many of the dials of a target the agent gets."""
    before = agent.dials()
    for _ in range(DIALS):
        world.server.connect(target)
    return agent.dials() - before


def _pods(world):
    for node in (A, B):
        target = f"{world.pods[node]}:{objects.WEB_PORT}"
        world.expect_served(lambda target=target: world.server.connects(target, 1), world.agents[node], times=DIALS)
        raw = f"/api/v1/namespaces/default/pods/box-{node}:{objects.WEB_PORT}/proxy/hello"
        said = world.kubectl.raw(raw).strip()
        expect(said == "hello from the pod", f"the pod's proxy said {said!r}")


def _webhook(world):
    """The first call is a new connection to a pod that nobody dialled before."""
    use.create_webhook(world.cluster, B)
    world.expect_served(lambda: use.ask_webhook(world.cluster, B), world.agents[B])


def _stolen(world, link):
    """A token of worker A's agent, presented from worker B, whose address is claimed."""
    token = agents.token(world.cluster, world.agents[A].pod)
    claims = f"--agent-identifiers=host={B}&ipv4={agents.address(world.cluster, B)}&cidr={world.cluster.node(B).network.pods}"
    with world.stranger(B, token, f"--agent-id={B}", claims, link=link) as thief:
        thief.wait_admitted()
        world.server.wait_for_tunnels(len(world.agents) + 1)
        # Pods have no name server here, so a look-up of the node's name fails after seconds.
        for target, times in ((world.kubelet(B), DIALS), (f"{world.pods[B]}:{objects.WEB_PORT}", DIALS), (f"{B}:{KUBELET}", 1)):
            world.expect_served(lambda target=target: world.server.connect(target), world.agents[B], [thief], times)
        of_b, of_own = world.agents[B].dials(), _share(world, world.kubelet(A), thief)
        expect(world.agents[B].dials() == of_b, "worker B's agent got dials of worker A")
        remark = f"of {DIALS} dials of the token's node it got {of_own:g}"
    world.server.wait_for_tunnels(len(world.agents))
    return remark


def _claim(world, link):
    """An agent of worker B, with worker A's name, address and pods as identifiers, and its id."""
    token = agents.token(world.cluster, world.agents[B].pod)
    def unproven():
        return agents.total(world.server.metrics(), "tunnel_server_unproven_claims_total")

    address, before = agents.address(world.cluster, A), unproven()
    claims = f"--agent-identifiers=ipv4={address}&host={A}&cidr={world.cluster.node(A).network.pods}&default-route=true"
    with world.stranger(B, token, f"--agent-id={A}", claims, link=link) as rogue:
        rogue.wait_admitted()
        world.server.wait_for_tunnels(len(world.agents) + 1)
        for target in (world.kubelet(A), f"{world.pods[A]}:{objects.WEB_PORT}"):
            world.expect_served(lambda target=target: world.server.connects(target, 1), world.agents[A], [rogue], DIALS)
        world.expect_served(lambda: world.kubectl.ok("exec", f"box-{A}", "--", "echo"), world.agents[A], [rogue])
        expect(unproven() >= before + 3, "claims are not counted")
        expect("does not prove these claims: they get no dials" in world.server.log(), "claims are not logged")
    world.server.wait_for_tunnels(len(world.agents))


def _refusals(world):
    """By name: a token, the server's label for it, and the words of both logs."""
    def signed(change):
        return lambda: change(agents.token(world.cluster, world.agents[A].pod))

    def expire(token):
        key = world.cluster.node(CONTROL_PLANE).seen_from_outside("/etc/kubernetes/pki/sa.key")
        return accounts.expired(token, key, world.cluster.directory)

    cases = {
        "a deleted pod's token": (
            lambda: _token_of_deleted_pod(world), "token_invalidated", "whose pod, node or service account is gone"),
        "a token for another audience": (
            lambda: agents.token(world.cluster, world.agents[A].pod, audience="vault"), "token_wrong_audience", "vault"),
        "an expired token": (signed(expire), "token_expired", "which has expired"),
        "a forged token": (signed(accounts.forged), "token_unauthenticated", "the Kubernetes API does not accept the token: "),
        "garbage for a token": (lambda: "garbage", "token_malformed", "no service-account token"),
    }
    for name, case in cases.items():
        yield f"refused with its reason: {name}", lambda case=case: _refused(world, *case)


def _refused(world, make, reason, text):
    before, said = world.server.metrics(), len(world.server.log())
    with world.stranger(B, make(), "--agent-id=refused", link="h2") as agent:
        wait.until(f"the agent logs {text!r}", lambda: [
            line for line in agent.log().splitlines() if text in line and "rejected by the server" in line], LIMIT)
        wait.until(f"the server logs {text!r}", lambda: text in world.server.log()[said:], LIMIT)
        after = world.server.metrics()
        expect(agent.metrics()["tunnel_agent_servers_connected"] == 0, "the agent is connected")
    name = "tunnel_server_rejected_agents_total"
    counted = {sample for sample in after if sample.startswith(name) and after[sample] != before.get(sample, 0)}
    expect(counted and all(f'reason="{reason}"' in sample for sample in counted), f"these were counted: {counted}")
    return reason


def _token_of_deleted_pod(world):
    """A pod that never runs."""
    secure = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "main", "image": image.NAME,
                 "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    world.kubectl.ok("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "brief", "namespace": manual.NAMESPACE},
        "spec": {"schedulingGates": [{"name": "tunnel.test/never"}], "serviceAccountName": "tunnel-agent",
                 "securityContext": secure, "containers": [container]}}))
    token = agents.token(world.cluster, "brief")
    world.kubectl.ok("delete", "pod", "brief", "-n", manual.NAMESPACE)
    # The kube-apiserver reviews tokens by its own copy of the pods, which learns of the deletion by a watch.
    wait.until("the kube-apiserver knows that the pod is gone", lambda: not accounts.extra(world.kubectl, token), LIMIT)
    return token


def _node(world):
    """A Node without a kubelet, whose agent the suite runs on worker B. Its addresses refuse at once, whoever dials them."""
    for node in world.agents:
        for address in (LATER_FIRST, LATER_SECOND, LATER_POD):
            world.cluster.node(node).network.namespace.inside(["ip", "addr", "add", f"{address}/32", "dev", "lo"])
    world.kubectl.ok("create", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": LATER}, "status": _addresses(LATER_FIRST)}))
    wait.until("no agent stands in for a node without one", lambda: _unserved(world, f"{LATER_FIRST}:80"), 15)
    with world.stranger(B, agents.token(world.cluster, LATER, kind="Node"), f"--agent-id={LATER}") as agent:
        agent.wait_admitted()
        came = _until_served(world, f"{LATER_FIRST}:80", agent, 15)
        _set_address(world, LATER_SECOND)
        moved = _until_served(world, f"{LATER_SECOND}:80", agent, 10)
        _set_pods(world, LATER, LATER_PODS)
        pods = _until_served(world, f"{LATER_POD}:80", agent, 10)
        # An address of no node is dialled by any agent of a node.
        expect(_share(world, f"{LATER_FIRST}:80", agent) < DIALS, "the old address is the node's")
        world.kubectl.ok("delete", "node", LATER)
        started = time.monotonic()
        wait.until("the routes are gone", lambda: _share(world, f"{LATER_SECOND}:80", agent) == 0, 10)
        gone = f"{time.monotonic() - started:.1f} s"
    world.server.wait_for_tunnels(len(world.agents))
    return f"came after {came}, address {moved}, pods {pods}, gone {gone}"


def _set_address(world, address):
    status = {"status": _addresses(address)}
    world.kubectl.ok("patch", "node", LATER, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def _addresses(address):
    return {"addresses": [{"type": "InternalIP", "address": address}]}


def _label(world):
    world.kubectl.ok("label", "node", A, "tunnel.test/colour=green")
    for _ in range(3):
        world.expect_served(lambda: world.server.connects(world.kubelet(A), 1), world.agents[A], times=DIALS)


def _policy(world):
    for target, rule in (("169.254.169.254:80", "builtin/metadata"), ("127.0.0.1:10250", "loopback")):
        def denied(rule=rule):
            return agents.total(world.server.metrics(), "tunnel_server_policy_denied_total", f'rule="{rule}"')

        said, before = len(world.server.log()), denied()
        status, text = world.server.connect(target)
        expect(status == 403 and f'denied by policy rule "{rule}": {target}' in text, f"CONNECT {target}: {text}")
        wait.until("the audit line is logged", lambda said=said, words=("audit", rule, target): [
            line for line in world.server.log()[said:].splitlines() if all(word in line for word in words)], LIMIT)
        expect(denied() == before + 1, f"{rule} is not counted once")


def _traced(world):
    api, own = f"{agents.address(world.cluster, CONTROL_PLANE)}:6443", f"{world.pods[A]}:{objects.WEB_PORT}"
    with (traced.Trace(world.cluster, CONTROL_PLANE, "tunnel-server") as server,
          traced.Trace(world.cluster, A, "tunnel-agent") as agent):
        for node in (A, B):
            world.kubectl.ok("logs", f"box-{node}")
            world.kubectl.ok("exec", f"box-{node}", "--", "echo")
            world.server.connects(f"{world.pods[node]}:{objects.WEB_PORT}", 3)
            world.server.connects(world.kubelet(node), 3)
        denied = _denied_by(world, world.agents[A])
        by_server, by_agent = server.connected(), agent.connected()
    expect(by_server <= {api}, f"the server connected to {by_server}")
    expect({own, world.kubelet(A)} <= by_agent, f"strace saw the agent connect to {by_agent} only")
    # The server's address is that of its tunnels.
    others = by_agent - {own, world.kubelet(A), f"{agents.address(world.cluster, CONTROL_PLANE)}:8132"}
    expect(not others, f"the agent connected to {others}")
    return f"server: {sorted(by_server) or 'nothing'}; agent: {sorted(by_agent)}; {denied:g} dials refused by the agent"


def _denied_by(world, agent):
    """Dials of a name for loopback, which any agent may get, until this one has refused some."""
    def denied():
        status, text = world.server.connect(f"{LOOPBACK_BY_NAME}:{KUBELET}")
        expect(status == 403 and 'denied by policy rule "loopback"' in text, f"CONNECT {LOOPBACK_BY_NAME}: {text}")
        count = agents.total(agent.metrics(), "tunnel_agent_policy_denied_total", 'rule="loopback"')
        return count if count >= 3 else None

    return wait.until("the agent refuses loopback", denied, LIMIT, pause=0)
