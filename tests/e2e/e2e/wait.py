"""Waiting for conditions. A wait that fails says what it saw last, so nobody has to rerun it to know."""

import time

from .fail import CheckFailed, Hopeless


def until(what, probe, seconds, pause=0.1):
    """Call `probe` until it returns something true, and return that.

    A probe may raise: not being there yet is the usual state of a thing that is starting. Its
    last answer or exception is what the failure shows. `Hopeless` ends the wait. The last look begins
    after the end: a process that got no processor meanwhile, or a slow probe, does not make a failure.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() >= deadline
        try:
            last = probe()
            if last:
                return last
        except Hopeless:
            raise
        except Exception as error:  # noqa: BLE001 - any failure of a probe means "not yet"
            last = f"{type(error).__name__}: {error}"
        if late:
            raise CheckFailed(f"{what}: not within {seconds:g} s; last seen: {last!r}")
        time.sleep(pause)
