"""Measuring when the tunnel works again, as a person sees it: by the next kubectl command."""

import time

from ..fail import CheckFailed
from ..cluster import NODE
from ..kubectl import TooSlow

TRY_SECONDS = 5


def seconds_until_works(ctx, since, limit):
    """Repeat a command over the tunnel until it succeeds; returns the time since `since`, a monotonic time.

    A try has a limit of its own, because an attempt that began in the gap may hang where a new one works.
    """
    last = "nothing was tried"
    while time.monotonic() - since <= limit + TRY_SECONDS:
        try:
            result = ctx.kubectl.try_("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/healthz", timeout=TRY_SECONDS)
            last = (result.stdout + result.stderr).strip()
            seconds = time.monotonic() - since
            if result.returncode == 0 and seconds <= limit:
                return seconds
        except TooSlow:
            last = f"no answer within {TRY_SECONDS} s"
    raise CheckFailed(f"does not work within {limit} s, the last try gave: {last}")
