"""kubectl cp of a big random file, both ways."""

import hashlib
import os
import time

from ..fail import expect

MEGABYTES = 256


def upload_and_download(ctx):
    """The checksum in the pod, and then of the copy that came back, is that of the file."""
    source, back = ctx.cluster.random_file(MEGABYTES), ctx.scratch("copy")
    there = f"/tmp/{ctx.tag}"
    with ctx.bulk:
        try:
            up = _timed(lambda: ctx.kubectl.ok("cp", source.path, f"box:{there}", timeout=180))
            answer = ctx.kubectl.ok("exec", "box", "--", "sha256sum", there, timeout=60)
            expect(answer.split()[:1] == [source.sha256], f"in the pod the checksum is {answer.strip()}")
            down = _timed(lambda: ctx.kubectl.ok("cp", f"box:{there}", back, timeout=180))
            expect(sha256(back) == source.sha256, f"the copy that came back ({os.path.getsize(back)} bytes) differs")
        finally:
            ctx.kubectl.try_("exec", "box", "--", "rm", "-f", there)
            if os.path.exists(back):
                os.unlink(back)
    return f"up {MEGABYTES / up:.0f} MiB/s, down {MEGABYTES / down:.0f} MiB/s"


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _timed(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started
