"""The protocol of exec and port-forward. kubectl falls back from WebSockets to SPDY by itself, so its log is asked."""

import re

from .. import objects
from ..fail import expect
from .logs import read_lines

NEGOTIATED = re.compile(r'(?:Subprotocol negotiated|Negotiation complete)" protocol="([^"]+)"')
WEBSOCKETS = {"exec": "v5.channel.k8s.io", "port-forward": "portforward.k8s.io"}


def websockets(ctx):
    """What the server chose for each."""
    for command, wanted in WEBSOCKETS.items():
        chosen = NEGOTIATED.findall(_log(ctx, command))
        expect(chosen == [wanted], f"kubectl {command} negotiated {chosen}, not {wanted}")


def spdy(ctx):
    """The flags that the checks over SPDY rely on work: kubectl negotiates no WebSocket."""
    for command in WEBSOCKETS:
        log = _log(ctx, command)
        expect("101 Switching Protocols" in log and not NEGOTIATED.search(log), f"kubectl {command}: {log[-1500:]}")


def over_spdy(check):
    """The same check with a kubectl that speaks SPDY."""
    return lambda ctx: check(ctx.over_spdy())


def _log(ctx, command):
    return {"exec": _exec, "port-forward": _forward}[command](ctx)


def _exec(ctx):
    result = ctx.kubectl.try_("exec", "-v=6", "box", "--", "echo")
    expect(result.returncode == 0, f"kubectl exec: {result.stderr.strip()[-1500:]}")
    return result.stderr


def _forward(ctx):
    """kubectl connects before it says that it forwards."""
    with ctx.kubectl.start("port-forward", "-v=6", "--address", "127.0.0.1", "pod/web", f":{objects.WEB_PORT}") as kubectl:
        item = read_lines(kubectl.stdout).get(timeout=20)
        kubectl.kill()
        log = kubectl.stderr.read().decode()
    expect(item is not None, f"kubectl port-forward ended: {log[-1500:]}")
    return log
