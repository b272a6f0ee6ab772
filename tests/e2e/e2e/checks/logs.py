"""kubectl logs, once and following."""

import queue
import threading
import time

from .. import objects
from ..fail import expect

FOLLOW_SECONDS = 60
# Eight processes carry a line, each of which may wait for the processor. A line that bulk transfers hold back comes later.
LATE_SECONDS = 5.0


def once(ctx):
    """All lines that the pod printed at its start."""
    lines = ctx.kubectl.ok("logs", "box").splitlines()
    expect(lines == objects.FIRST_LINES, f"{len(lines)} lines, {len(objects.FIRST_LINES)} were printed: {lines[-3:]}")


def follow(ctx):
    """A line each second for a minute: none missing, none twice, none late, while other checks load the tunnel."""
    with ctx.kubectl.start("logs", "-f", "counter", "--tail=1") as kubectl:
        lines = read_lines(kubectl.stdout)
        first, _ = _next(lines)
        worst, number, end = 0.0, first, time.monotonic() + FOLLOW_SECONDS
        while time.monotonic() < end:
            got, late = _next(lines)
            expect(got == number + 1, f"line {got} came after line {number}")
            expect(late <= LATE_SECONDS, f"line {got} came {late:.1f} s after it was printed")
            number, worst = got, max(worst, late)
    # A pod that gets no processor skips seconds, and prints no line for them. Lines that it printed are in the sequence.
    expect(number - first >= FOLLOW_SECONDS / 2, f"only {number - first} lines in {FOLLOW_SECONDS} s")
    return f"{number - first} lines, the latest {worst * 1000:.0f} ms late"


def read_lines(stream):
    """A queue of (line, arrival time); None ends it. A thread reads, because a pipe has no read with a deadline."""
    lines = queue.Queue()

    def read():
        for line in iter(stream.readline, b""):
            lines.put((line, time.time()))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def _next(lines):
    """(number, seconds it took to arrive) of the next line."""
    try:
        item = lines.get(timeout=10)
    except queue.Empty:
        item = ()
    expect(item != (), "no line for 10 s")
    expect(item is not None, "kubectl logs -f ended")
    number, printed = item[0].split()
    return int(number), item[1] - int(printed) / 1e9
