"""`kubectl logs -f` in the background, while something is done to the tunnel under it."""

import threading
import time

from ..fail import expect
from .logs import read_lines


class Follower:
    """Started, and known to follow: its first line has come. A thread notes when it ends."""

    def __init__(self, ctx):
        self._process = ctx.kubectl.start("logs", "-f", "counter", "--tail=1")
        self._ended, self.code = None, None
        item = read_lines(self._process.stdout).get(timeout=20)
        expect(item is not None, "kubectl logs -f ended before its first line")
        self._watch = threading.Thread(target=self._note_end, daemon=True)
        self._watch.start()

    def seconds_until_end(self, since, limit):
        """Ends by itself within `limit` of `since`, or this raises; never leaves it running."""
        self._watch.join(max(0.0, since + limit - time.monotonic()))
        ended = self._ended
        self._process.__exit__()
        expect(ended is not None, f"kubectl logs -f still runs after {time.monotonic() - since:.1f} s")
        expect(ended - since <= limit, f"kubectl logs -f ended after {ended - since:.1f} s, {limit:.0f} s are allowed")
        return ended - since

    def _note_end(self):
        self.code = self._process.wait()
        self._ended = time.monotonic()
