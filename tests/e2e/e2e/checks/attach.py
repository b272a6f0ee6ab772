"""kubectl attach: standard input and output of a program that already runs."""

import queue
import subprocess
import time

from ..fail import expect
from .logs import read_lines

LINE_SECONDS = 20


def attach(ctx):
    """Three lines, each answered. All frontends share the pod, so only our own answers count.

    The first is typed once a line has come. An answer to an earlier one is lost where containerd has attached the input
    and not the output yet.
    """
    with ctx.kubectl.start("attach", "-i", "talker", stdin=subprocess.PIPE) as kubectl:
        lines = read_lines(kubectl.stdout)
        _expect_line(lines, "waiting")
        for number in range(3):
            word = f"{ctx.tag}-{number}"
            kubectl.stdin.write(f"{word}\n".encode())
            kubectl.stdin.flush()
            _expect_line(lines, f"answer to {word}")


def _expect_line(lines, wanted):
    """The pod's own lines never stop, so the time counts, and not the next line."""
    seen, deadline = [], time.monotonic() + LINE_SECONDS
    while True:
        try:
            item = lines.get(timeout=max(0, deadline - time.monotonic()))
        except queue.Empty:
            item = None
        expect(item is not None, f"{wanted!r} did not arrive; these did: {seen}")
        seen.append(item[0].decode().strip())
        if seen[-1] == wanted:
            return
