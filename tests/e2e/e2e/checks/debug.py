"""kubectl debug: an ephemeral container in a running pod."""

import queue
import subprocess

from .. import image
from ..fail import expect
from .logs import read_lines

PROGRAM = 'read word; echo "$word sees $(cat /proc/1/cmdline)"'


def ephemeral_container(ctx):
    """It runs beside the pod's own container, whose process it sees, and kubectl is attached to it."""
    command = ["debug", "-q", "-i", "box", "--profile=general", f"--image={image.NAME}", "--image-pull-policy=Never",
               "--target=main", f"--container=debug-{ctx.tag}", "--", "/bin/busybox", "sh", "-c", PROGRAM]
    with ctx.kubectl.start(*command, stdin=subprocess.PIPE) as kubectl:
        kubectl.stdin.write(b"debugger\n")
        kubectl.stdin.flush()
        try:
            item = read_lines(kubectl.stdout).get(timeout=60)
        except queue.Empty:
            item = ()
        expect(item, f"no answer of the container: {_rest(kubectl)}")
        expect(b"debugger sees pod\0wait" in item[0], f"it printed {item[0]!r}")
        code = kubectl.wait(15)
        expect(code == 0, f"exit code {code}: {_rest(kubectl)}")


def _rest(kubectl):
    kubectl.kill()
    return kubectl.stderr.read().decode().strip()[-1500:]
