"""Measuring when the tunnel works again, as a person sees it: by the next kubectl command."""

import time

from ..fail import CheckFailed
from ..cluster import NODE
from ..kubectl import TooSlow

TRY_SECONDS = 5


def seconds_until_works(ctx, since, limit, each=TRY_SECONDS):
    """Repeat a command over the tunnel until it succeeds; returns the time since `since`, a monotonic time.

    A try has a limit of its own, `each`, because an attempt that began in the gap may hang where a new one works.
    """
    last = "nothing was tried"
    while time.monotonic() - since <= limit:
        try:
            result = ctx.kubectl.try_("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/healthz", timeout=each)
            last = (result.stdout + result.stderr).strip()
            seconds = time.monotonic() - since
            if result.returncode == 0 and seconds <= limit:
                return seconds
        except TooSlow:
            last = f"no answer within {each} s"
    raise CheckFailed(f"does not work within {limit} s, the last try gave: {last}")
