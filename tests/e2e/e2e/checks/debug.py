"""kubectl debug: an ephemeral container in a running pod."""

import queue
import subprocess

from .. import image
from ..fail import CheckFailed
from .logs import read_lines

# The word is typed once a line has come: containerd attaches the input first, so that a program which answers and ends
# at once may have ended before its output is attached. The program ends once its last line has come: without a tunnel too,
# 4 of 100 that ended with it on a busy machine were cut before it, with exit code 0.
PROGRAM = ('for n in $(seq 30); do echo ready; read -t 1 word && break; done; '
           'echo "$word sees $(cat /proc/1/comm)"; read -t 30 end; true')
ANSWER = b"debugger sees pod\n"


def ephemeral_container(ctx):
    """It runs beside the pod's own container, whose process it sees, and kubectl is attached to it."""
    command = ["debug", "-q", "-i", "box", "--profile=general", f"--image={image.NAME}", "--image-pull-policy=Never",
               "--target=main", f"--container=debug-{ctx.tag}", "--", "/bin/busybox", "sh", "-c", PROGRAM]
    with ctx.kubectl.start(*command, stdin=subprocess.PIPE) as kubectl:
        seen = _converse(kubectl)
        if seen[-1:] != [ANSWER] or kubectl.wait(15) != 0:
            kubectl.kill()
            said = kubectl.stderr.read().decode().strip()[-1500:]
            raise CheckFailed(f"it printed {seen} and ended with {kubectl.wait()}: {said}")


def _converse(kubectl):
    """Every line until the output ends. The first one is answered, and the one that ends the program."""
    lines, seen = read_lines(kubectl.stdout), []
    try:
        while item := lines.get(timeout=60):
            seen.append(item[0])
            if len(seen) == 1 or item[0] == ANSWER:
                kubectl.stdin.write(b"debugger\n")
                kubectl.stdin.flush()
    except queue.Empty:
        pass  # What came tells what is missing.
    return seen
