"""The programs under test."""

import http.client
import os
import signal
import sys
import time

from . import ports, wait
from .fail import Unusable, expect
from .shell import run

GRACE = 3
# So long after the server's grace period a kubelet kills it, by the manifests and the chart.
KILLED_AFTER = 5


class TunnelServer:
    """One server for all frontends: a Unix socket and TCP at once, both protocols on each.

    `authentication` has the flags by which agents are known, `more` those of a scenario; both count from the
    next start on.
    """

    @staticmethod
    def find(bin_dir):
        return _executable(bin_dir, "tunnel-server")

    def __init__(self, bin_dir, directory, network, pki, processes, name="e2e"):
        self.binary, self.name = self.find(bin_dir), name
        self.network, self.pki, self.processes = network, pki, processes
        self.authentication, self.more = [f"--cluster-ca-cert={pki.agents.certificate}"], []
        self.socket = os.path.join(directory, "tunnel.sock")
        self.frontend_port, self.admin_port, self.health_port = (ports.free() for _ in range(3))
        self.agent_port = ports.free(network.control_plane)
        self.process = None

    def start(self):
        self.process = self.processes.start(
            "tunnel-server", [self.binary, *self._frontend(), *self._agents(), *self._operation(), *self.more])

    def wait_up(self, seconds=20):
        """Listening. Readiness needs an agent and is asked for with `wait_for`."""
        def healthy():
            self.process.must_run()
            return self.health("/healthz") == 200 and os.path.exists(self.socket)

        wait.until("tunnel-server is up", healthy, seconds)

    def wait_for(self, agent, seconds=20):
        def ready():
            self.process.must_run()
            agent.process.must_run()
            return self.health("/readyz") == 200

        wait.until("tunnel-server has an agent", ready, seconds)

    def wait_without_agent(self, seconds=40):
        wait.until("tunnel-server has lost its agent", lambda: self.health("/readyz") != 200, seconds)

    def health(self, path):
        return _status("127.0.0.1", self.health_port, path)

    def metrics(self):
        """A dictionary of numbers by sample, labels included."""
        return _samples(_get("127.0.0.1", self.health_port, "/metrics")[1])

    def terminate(self):
        """SIGTERM as a kubelet sends it. A kubelet kills who exceeds the grace period, so a server that is late is wrong."""
        started = time.monotonic()
        self.process.signal(signal.SIGTERM)
        code = self.process.wait(GRACE + 20)
        seconds = time.monotonic() - started
        expect(code == 0, f"tunnel-server ended with {code} after SIGTERM, not 0")
        expect(seconds <= GRACE + KILLED_AFTER,
               f"tunnel-server ended {seconds:.1f} s after SIGTERM; its grace period is {GRACE} s")
        return f"after {seconds:.1f} s"

    def _frontend(self):
        certificate, key = self.pki.server_for_frontend
        return [
            f"--uds-name={self.socket}", "--delete-existing-uds-file=true",
            "--server-bind-address=127.0.0.1", f"--server-port={self.frontend_port}",
            f"--server-cert={certificate}", f"--server-key={key}", f"--server-ca-cert={self.pki.frontend.certificate}",
        ]

    def _agents(self):
        certificate, key = self.pki.server_for_agents
        return [
            f"--agent-bind-address={self.network.control_plane}", f"--agent-port={self.agent_port}",
            f"--cluster-cert={certificate}", f"--cluster-key={key}", *self.authentication,
        ]

    def _operation(self):
        return [
            "--admin-bind-address=127.0.0.1", f"--admin-port={self.admin_port}",
            "--health-bind-address=127.0.0.1", f"--health-port={self.health_port}",
            "--proxy-strategies=default", f"--server-id={self.name}", f"--graceful-shutdown-timeout={GRACE}s",
        ]


class TunnelAgent:
    """The agent on the node. It has the node's network, and so the only way into it.

    `credentials` has the flags by which it is known to servers, `more` those of a scenario; both count from
    the next start on.
    """

    @staticmethod
    def find(bin_dir):
        return _executable(bin_dir, "tunnel-agent")

    def __init__(self, bin_dir, node, server, pki, processes):
        self.binary = self.find(bin_dir)
        self.node, self.server, self.pki, self.processes = node, server, pki, processes
        self.credentials = [f"--agent-cert={pki.agent[0]}", f"--agent-key={pki.agent[1]}"]
        self.process, self.more = None, []

    def start(self, link):
        network = self.server.network
        self.process = self.processes.start("tunnel-agent", [
            *network.enter(), self.binary, f"--transport={link}",
            f"--ca-cert={self.pki.agents.certificate}", *self.credentials,
            f"--proxy-server-host={network.control_plane}", f"--proxy-server-port={self.server.agent_port}",
            f"--agent-id={self.node}", f"--agent-identifiers=ipv4={network.node}",
            "--health-server-host=127.0.0.1", "--health-server-port=8134",
            "--admin-bind-address=127.0.0.1", "--admin-server-port=8133", *self.more,
        ])

    def metrics(self):
        """As the server's, asked for in the node's network."""
        program = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=3).read().decode())"
        url = "http://127.0.0.1:8134/metrics"
        return _samples(run([*self.server.network.enter(), sys.executable, "-c", program, url], timeout=20).stdout)

    def kill(self):
        self.process.kill()

    def stop(self):
        if self.process:
            self.process.end()


def _executable(directory, name):
    path = os.path.join(os.path.abspath(directory), name)
    if not os.access(path, os.X_OK):
        raise Unusable(f"{path} is not there: build the programs first, or say where they are with --bin-dir.")
    return path


def _status(host, port, path):
    return _get(host, port, path)[0]


def _get(host, port, path):
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _samples(text):
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}
