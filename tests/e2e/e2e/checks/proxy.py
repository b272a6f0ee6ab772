"""The node, pod and service proxies of the API server, and an upgraded connection through one."""

import os
import re
import socket
import ssl

from .. import objects
from ..cluster import NODE
from ..fail import expect
from . import echo

ROUND_TRIPS = 300
GREETING = "hello from the pod\n"
CLOSED_PORT = 9


def node(ctx):
    """The kubelet's health and its metrics, which are a long answer in many pieces."""
    expect(ctx.kubectl.raw(f"/api/v1/nodes/{NODE}/proxy/healthz") == "ok", "healthz is not ok")
    metrics = ctx.kubectl.raw(f"/api/v1/nodes/{NODE}/proxy/metrics")
    expect("kubelet_node_name" in metrics and metrics.endswith("\n"), f"{len(metrics)} bytes that are not the kubelet's metrics")


def pod(ctx):
    got = ctx.kubectl.raw(f"{objects.NAMESPACE}/pods/web:{objects.WEB_PORT}/proxy/hello")
    expect(got == GREETING, f"the pod answered {got!r}")


def service(ctx):
    got = ctx.kubectl.raw(f"{objects.NAMESPACE}/services/web:80/proxy/hello")
    expect(got == GREETING, f"the service answered {got!r}")


def refused(ctx):
    """What failed and at which address, in the words that people search for."""
    return _fails_with(ctx, f"pods/web:{CLOSED_PORT}", "connect: connection refused", CLOSED_PORT)


def unreachable(ctx):
    """The address of a pod that is gone. The kernel of the node gives up after some three seconds."""
    return _fails_with(ctx, f"pods/{objects.GONE}:{objects.WEB_PORT}", "connect: no route to host", objects.WEB_PORT)


def _fails_with(ctx, what, reason, port):
    result = ctx.kubectl.try_("get", "--raw", f"{objects.NAMESPACE}/{what}/proxy/", timeout=40)
    said = result.stderr.strip()
    expect(result.returncode != 0, f"it answered {result.stdout!r}")
    expect(re.search(rf"dial tcp 10\.201\.\d+\.\d+:{port}: {reason}", said), f"kubectl said {said!r}")
    return said[-160:]


def upgraded(ctx):
    """Many small round trips, then a megabyte of every byte value, on one upgraded connection."""
    with _connect(ctx) as sock:
        echo.upgrade(sock, f"{objects.NAMESPACE}/pods/web:{objects.WEB_PORT}/proxy/upgrade", "apiserver")
        for number in range(ROUND_TRIPS):
            echo.round_trip(sock, f"round trip {number}".encode())
        echo.round_trip(sock, bytes(range(256)) + os.urandom((1 << 20) - 256))


def _connect(ctx):
    """A TLS connection to the API server as the administrator, without any client library in between."""
    context = ssl.create_default_context(cafile=ctx.cluster.pki.cluster.certificate)
    context.load_cert_chain(*ctx.cluster.pki.admin)
    plain = socket.create_connection((ctx.cluster.network.control_plane, ctx.api.port), timeout=30)
    return context.wrap_socket(plain, server_hostname=ctx.cluster.network.control_plane)
