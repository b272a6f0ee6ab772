"""kubectl cp of a big random file, both ways."""

import hashlib
import os
import re
import time

from ..fail import expect

# Kubernetes' own loss, seen without any tunnel: kubectl pings every five seconds, and when a kubelet closes a
# connection on which a ping waits unread, its kernel resets it and destroys what the reader has not taken yet.
# A download is in danger while its last megabytes are in the kubelet, so only one that ends just then is repeated.
PING_SECONDS, DANGER_SECONDS, DOWNLOADS = 5, 1, 4
# The line of kubectl's log that tells when the session began, and with it the pings.
SESSION = re.compile(r"^I\d{4} (\d\d):(\d\d):(\d\d\.\d+) .*(?:Subprotocol negotiated|101 Switching Protocols)", re.MULTILINE)


def both_ways(megabytes):
    """A check that the checksum in the pod, and then of the copy that came back, is that of the file."""
    return lambda ctx: _upload_and_download(ctx, megabytes)


def _upload_and_download(ctx, megabytes):
    source, back = ctx.cluster.random_file(megabytes), ctx.scratch("copy")
    there = f"/tmp/{ctx.tag}"
    with ctx.bulk:
        try:
            up = _timed(lambda: ctx.kubectl.ok("cp", source.path, f"box:{there}", timeout=180))
            answer = ctx.kubectl.ok("exec", "box", "--", "sha256sum", there, timeout=60)
            expect(answer.split()[:1] == [source.sha256], f"in the pod the checksum is {answer.strip()}")
            down, lost = _download(ctx, there, back, source.sha256)
        finally:
            ctx.kubectl.try_("exec", "box", "--", "rm", "-f", there)
            if os.path.exists(back):
                os.unlink(back)
    again = f", {lost} downloads reset at kubectl's ping" if lost else ""
    return f"up {megabytes / up:.0f} MiB/s, down {megabytes / down:.0f} MiB/s{again}"


def _download(ctx, there, back, wanted):
    """Seconds of the download that worked, and how many before it a kubelet reset at a ping."""
    for lost in range(DOWNLOADS):
        started = time.monotonic()
        result = ctx.kubectl.try_("cp", "-v=6", f"box:{there}", back, timeout=180)
        seconds, pinged = time.monotonic() - started, _ended_at_a_ping(result.stderr)
        whole = result.returncode == 0 and sha256(back) == wanted
        if whole or not pinged:
            break
    expect(result.returncode == 0, f"kubectl cp out of the pod: {result.stderr.strip()[-1500:]} after {seconds:.1f} s")
    expect(whole, f"the copy that came back ({os.path.getsize(back)} bytes) differs")
    return seconds, lost


def _ended_at_a_ping(log):
    """By the age of the session, which kubectl begins late on a busy machine and outlives by up to half a second."""
    begun = SESSION.findall(log)
    if not begun:
        return False
    now = time.time()
    seconds = (_of_day(*time.localtime(now)[3:5], now % 60) - _of_day(*begun[-1])) % _of_day(24, 0, 0)
    return seconds >= PING_SECONDS and seconds % PING_SECONDS <= DANGER_SECONDS + 0.5


def _of_day(hours, minutes, seconds):
    """Seconds since midnight."""
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _timed(action):
    started = time.monotonic()
    action()
    return time.monotonic() - started
