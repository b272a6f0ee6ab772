"""kubectl debug: an ephemeral container in a running pod."""

import queue
import subprocess

from .. import image
from ..fail import CheckFailed
from .logs import read_lines

PROGRAM = 'read word; echo "$word sees $(cat /proc/1/comm)"'


def ephemeral_container(ctx):
    """It runs beside the pod's own container, whose process it sees, and kubectl is attached to it."""
    command = ["debug", "-q", "-i", "box", "--profile=general", f"--image={image.NAME}", "--image-pull-policy=Never",
               "--target=main", f"--container=debug-{ctx.tag}", "--", "/bin/busybox", "sh", "-c", PROGRAM]
    with ctx.kubectl.start(*command, stdin=subprocess.PIPE) as kubectl:
        kubectl.stdin.write(b"debugger\n")
        kubectl.stdin.flush()
        seen = _first_line(kubectl)
        if seen != b"debugger sees pod\n" or kubectl.wait(15) != 0:
            kubectl.kill()
            said = kubectl.stderr.read().decode().strip()[-1500:]
            raise CheckFailed(f"it printed {seen!r} and ended with {kubectl.wait()}: {said}")


def _first_line(kubectl):
    try:
        item = read_lines(kubectl.stdout).get(timeout=60)
    except queue.Empty:
        return None
    return item and item[0]
