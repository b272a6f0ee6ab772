"""Servers that keep Leases in the cluster, and an agent that counts them; certificates know who is who.

Programs are started on the main thread only, see `processes`.
"""

import json
import os
import time

from .. import accounts, wait
from ..fail import expect
from ..tunnel import TunnelServer

NAMESPACE = accounts.NAMESPACE
SELECTOR = "=".join(accounts.LABEL)
RENEWED_SECONDS = 20
CULLED = "konnectivity_network_proxy_server_culled_leases_count"
# A lease lasts 30 s, is looked for every 15 s or so, and an agent confirms within 5 s that it ran out.
CULLED_SECONDS = 60


def scenario(world):
    cluster, server = world.cluster, world.server
    kubectl = cluster.kubectl(cluster.frontends[0])
    if "tokens" not in world.chosen.only:
        accounts.create(kubectl)
    certificates = TunnelServer(world.chosen.bin_dir, cluster.directory, cluster.network, cluster.pki, cluster.processes)
    kubeconfig = accounts.credentials(cluster, "tunnel-server")
    directory = os.path.join(cluster.directory, "second")
    os.makedirs(directory, exist_ok=True)
    second = TunnelServer(
        world.chosen.bin_dir, directory, cluster.network, cluster.pki, cluster.processes, name="second")
    for each in (server, second):
        each.authentication = certificates.authentication
        each.more = ["--enable-lease-controller", f"--kubeconfig={kubeconfig}"]
        each.start()
        each.wait_up()
    certificate, key = cluster.pki.agent
    world.agent.credentials = [f"--agent-cert={certificate}", f"--agent-key={key}"]
    world.agent.more = ["--count-server-leases", f"--kubeconfig={accounts.credentials(cluster, 'tunnel-agent')}"]
    world.agent.start(world.link)
    check = world.report.check
    check("leases", "each server has a lease that kubectl shows", lambda: _published(kubectl))
    check("leases", "an agent counts them", lambda: _counted(world, 2))
    check("leases", "leases are renewed", lambda: _renewed(kubectl))
    killed = time.monotonic()
    second.process.kill()
    check("leases", "the lease of a killed server is deleted by the other", lambda: _culled(kubectl, server, killed))
    check("leases", "and not counted any more", lambda: _counted(world, 1))
    check("leases", "a server that ends deletes its lease", lambda: _gone(kubectl, server))
    world.agent.stop()


def _leases(kubectl):
    found = json.loads(kubectl.ok("get", "leases", "-n", NAMESPACE, "-l", SELECTOR, "-o", "json"))
    return {lease["metadata"]["name"]: lease["spec"] for lease in found["items"]}


def _published(kubectl):
    names = {"konnectivity-proxy-server-e2e", "konnectivity-proxy-server-second"}
    leases = wait.until("both leases are there", lambda: (found := _leases(kubectl)).keys() == names and found, 20)
    for name, spec in leases.items():
        expect(spec["holderIdentity"] == name.rsplit("-", 1)[1], f"{name} is held by {spec['holderIdentity']}")
        expect(spec["leaseDurationSeconds"] == 30, f"{name} lasts {spec['leaseDurationSeconds']} s")


def _counted(world, wanted):
    def count():
        world.agent.process.must_run()
        metrics = world.agent.metrics()
        seen = metrics.get("konnectivity_network_proxy_agent_known_server_count")
        return seen == wanted and metrics

    metrics = wait.until(f"the agent knows {wanted} servers", count, CULLED_SECONDS, pause=0.5)
    calls = {name.rsplit("_agent_", 1)[1]: f"{value:g}" for name, value in metrics.items()
             if "_agent_lease_" in name and "_total{" in name}
    expect(any('"200"' in name for name in calls), f"no call of the agent is counted: {calls}")
    return ", ".join(f"{name} {value}" for name, value in calls.items())


def _renewed(kubectl):
    before = {name: spec["renewTime"] for name, spec in _leases(kubectl).items()}
    wait.until("all leases are renewed", lambda: all(
        spec["renewTime"] > before[name] for name, spec in _leases(kubectl).items()), RENEWED_SECONDS, pause=0.5)


def _culled(kubectl, server, killed):
    wait.until("the lease is deleted", lambda: "konnectivity-proxy-server-second" not in _leases(kubectl),
               CULLED_SECONDS, pause=0.5)
    # The API deletes a lease before the server has the answer, which it counts.
    culled = wait.until("it is counted", lambda: server.metrics().get(CULLED), RENEWED_SECONDS)
    expect(culled == 1, f"{culled} culled leases are counted")
    return f"{time.monotonic() - killed:.0f} s after the kill"


def _gone(kubectl, server):
    """A server waits for the API's answer for 1.5 s only. Nobody else is left who would delete the lease."""
    remark = server.terminate()
    wait.until("no lease is left", lambda: _leases(kubectl) == {}, RENEWED_SECONDS, pause=0.5)
    return remark
