"""kubectl attach: standard input and output of a program that already runs."""

import queue
import subprocess

from ..fail import expect
from .logs import read_lines


def attach(ctx):
    """Three lines, each answered. All frontends share the pod, so only our own answers count."""
    with ctx.kubectl.start("attach", "-i", "talker", stdin=subprocess.PIPE) as kubectl:
        lines = read_lines(kubectl.stdout)
        for number in range(3):
            word = f"{ctx.tag}-{number}"
            kubectl.stdin.write(f"{word}\n".encode())
            kubectl.stdin.flush()
            _expect_line(lines, f"answer to {word}")


def _expect_line(lines, wanted):
    seen = []
    while True:
        try:
            item = lines.get(timeout=15)
        except queue.Empty:
            item = None
        expect(item is not None, f"{wanted!r} did not arrive; these did: {seen}")
        seen.append(item[0].decode().strip())
        if seen[-1] == wanted:
            return
