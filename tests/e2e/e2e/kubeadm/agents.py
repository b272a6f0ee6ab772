"""Agents of a cluster and the server, by what they count and log; and agents that the suite runs beside them."""

import os
import re
import socket
import sys

from .. import wait
from ..fail import expect
from ..shell import run
from . import manual, use
from .cluster import CONTROL_PLANE

SOCKET = "/run/tunnel/server.socket"
LIMIT = 30
# Of agents that the suite runs in a worker's network: nothing else listens there.
HEALTH, ADMIN = 18093, 18094


class Agent:
    """The agent of the DaemonSet on a node."""

    def __init__(self, cluster, node):
        self.node, self._cluster = node, cluster
        self.pod = manual.agent_on(cluster, node)
        self._address = cluster.kubectl.ok(
            "get", "pod", self.pod, "-n", manual.NAMESPACE, "-o", "jsonpath={.status.podIP}")

    def metrics(self):
        """Asked for on its node, and not through the tunnel, whose dials are counted."""
        return _samples(self._cluster.enter(self.node, _fetch(f"http://{self._address}:8093/metrics")).stdout)

    def dials(self):
        return total(self.metrics(), "tunnel_agent_dials_total")


class Stranger:
    """An agent that the suite runs in a worker's network. A context manager: leaving it ends it."""

    def __init__(self, cluster, program, node, token, *flags, link="auto"):
        self._cluster, self._enter = cluster, cluster.node(node).network.enter()
        file = os.path.join(cluster.directory, "stranger.token")
        with open(file, "w", encoding="ascii") as opened:
            opened.write(token + "\n")
        control_plane = cluster.node(CONTROL_PLANE)
        self._arguments = [
            *self._enter, program, f"--transport={link}", f"--service-account-token-path={file}",
            f"--ca-cert={control_plane.seen_from_outside('/etc/kubernetes/pki/ca.crt')}",
            f"--proxy-server-host={control_plane.network.node}", "--proxy-server-port=8132",
            "--health-server-host=127.0.0.1", f"--health-server-port={HEALTH}",
            "--admin-bind-address=127.0.0.1", f"--admin-server-port={ADMIN}", *flags]

    def __enter__(self):
        self._process = self._cluster.processes.start("stranger", self._arguments)
        return self

    def __exit__(self, *_):
        self._process.end()

    def log(self):
        return self._process.log_since(self._process.log_begin)

    def metrics(self):
        self._process.must_run()
        return _samples(run([*self._enter, *_fetch(f"http://127.0.0.1:{HEALTH}/metrics")]).stdout)

    def dials(self):
        return total(self.metrics(), "tunnel_agent_dials_total")

    def wait_admitted(self):
        wait.until("the server admits the agent", lambda: self.metrics()["tunnel_agent_servers_connected"] == 1, LIMIT)


class Server:
    """The static pod on the control plane."""

    def __init__(self, cluster):
        self._cluster, self._host = cluster, cluster.node(CONTROL_PLANE)

    def metrics(self):
        return _samples(self._cluster.enter(CONTROL_PLANE, _fetch("http://127.0.0.1:8134/metrics")).stdout)

    def log(self):
        """All lines so far."""
        text = ""
        for _, path in self._host.pod_logs(lambda name: name.startswith("tunnel-server-")):
            with open(path, encoding="utf-8", errors="replace") as file:
                text += file.read()
        return text

    def connect(self, target):
        """Status and text of the answer to CONNECT on the kube-apiserver's socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(LIMIT)
            client.connect(self._host.seen_from_outside(SOCKET))
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = b""
            while not _complete(answer) and (more := client.recv(4096)):
                answer += more
        text = answer.decode(errors="replace")
        return int(text.split()[1]), text

    def connects(self, target, times):
        """Each has to be answered with 200."""
        for _ in range(times):
            status, text = self.connect(target)
            expect(status == 200, f"CONNECT {target}: {text}")

    def wait_for_tunnels(self, number):
        wait.until(f"the server has {number} tunnels", lambda: total(self.metrics(), "tunnel_server_tunnels") == number, LIMIT)


def token(cluster, pod, *, audience="system:konnectivity-server", kind="Pod"):
    """A new token of the agents' account that is bound to an object."""
    return cluster.kubectl.ok(
        "create", "token", "tunnel-agent", "-n", manual.NAMESPACE, f"--audience={audience}",
        f"--bound-object-kind={kind}", f"--bound-object-name={pod}").strip()


def address(cluster, node):
    return cluster.node(node).network.node


def pod_address(cluster, pod):
    return cluster.kubectl.ok("get", "pod", pod, "-o", "jsonpath={.status.podIP}")


def total(metrics, name, *labels):
    """The sum of the samples of that name with all these labels."""
    return sum(value for sample, value in metrics.items()
               if sample.split("{")[0] == name and all(label in sample for label in labels))


def _complete(answer):
    """Whether the answer to CONNECT is all there. A refusal has a body of known length."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(separator) and (not length or len(body) >= int(length.group(1)))


def _fetch(url):
    return [sys.executable, "-c", use.FETCH, url]


def _samples(text):
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}
