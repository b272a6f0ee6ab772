"""An admission webhook behind a service's cluster IP: the API server itself is the client of the tunnel."""

import time

from .. import objects
from ..fail import CheckFailed, expect


def allow_and_deny(ctx):
    """failurePolicy is Fail, so an allowed object too proves that the webhook was asked and answered."""
    allow(ctx, "first")
    name = f"denied-{ctx.tag}"
    result = ctx.kubectl.try_("create", "-f", "-", stdin=objects.config_map(name))
    expect(result.returncode != 0, "the object that the webhook denies was created")
    expect(f"the pod behind the tunnel denies {name}" in result.stderr,
           f"the webhook's message is missing: {result.stderr.strip()}")


def allow(ctx, what):
    ctx.kubectl.ok("create", "-f", "-", stdin=objects.config_map(f"allowed-{what}-{ctx.tag}"))


def allow_in_time(ctx, since, limit):
    """Create objects until one passes the webhook; returns the time since `since` and how many failed before.

    The API server keeps its connection to a webhook, and does not repeat a POST by itself.
    """
    failed = []
    while True:
        try:
            allow(ctx, f"again-{len(failed)}")
            break
        except CheckFailed as error:
            failed.append(str(error))
            expect(time.monotonic() - since < limit, f"{len(failed)} objects were refused, the last with {error}")
    seconds = time.monotonic() - since
    expect(seconds <= limit, f"the first object passed after {seconds:.1f} s, {limit} s are allowed")
    return f"after {seconds:.1f} s and {len(failed)} failed"
