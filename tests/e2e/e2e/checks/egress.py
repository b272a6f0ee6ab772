"""The API server's own metrics of its dials through the tunnel."""

import re

from ..fail import expect
from . import exec, proxy

PREFIX = "apiserver_egress_dialer_dial_"
LABELS = {
    "grpc-uds": {"protocol": "grpc", "transport": "uds"},
    "connect-uds": {"protocol": "http_connect", "transport": "uds"},
    "connect-tcp": {"protocol": "http_connect", "transport": "tcp"},
}


def counted(ctx):
    """A command that needs a connection of its own is a dial, and one to a closed port is a failure at the proxy."""
    if ctx.frontend == "direct":
        return "no tunnel, no dials"
    before = _counts(ctx)
    exec.exit_code("true")(ctx)
    proxy.refused(ctx)
    grown = {name: count - before.get(name, 0) for name, count in _counts(ctx).items()}
    for name in ("start_total", "duration_seconds_count", "failure_count"):
        expect(grown.get(name, 0) >= 1, f"{PREFIX}{name} did not grow: {grown}")
    return ", ".join(f"{name} +{grown[name]:g}" for name in sorted(grown))


def _counts(ctx):
    """By the end of its name, each of those metrics with the labels of this frontend."""
    found = {}
    for line in ctx.kubectl.raw("/metrics").splitlines():
        match = re.match(rf"{PREFIX}(start_total|duration_seconds_count|failure_count){{(.*)}} (\S+)$", line)
        if match and LABELS[ctx.frontend].items() <= dict(re.findall(r'(\w+)="([^"]*)"', match.group(2))).items():
            found[match.group(1)] = found.get(match.group(1), 0) + float(match.group(3))
    return found
