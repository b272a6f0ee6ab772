"""kubectl port-forward."""

import contextlib
import hashlib
import http.client
import os
import re
import socket
import threading
import time

from .. import objects
from ..fail import expect
from ..numbers import sha256_of_numbers
from . import echo
from .logs import read_lines

CONNECTIONS = 50
MEGABYTES = 256


@contextlib.contextmanager
def forwarded(ctx):
    """The local port of a running port-forward to the web pod."""
    with ctx.kubectl.start("port-forward", "--address", "127.0.0.1", "pod/web", f":{objects.WEB_PORT}") as kubectl:
        item = read_lines(kubectl.stdout).get(timeout=20)
        expect(item is not None, f"kubectl port-forward ended: {kubectl.stderr.read() if item is None else ''}")
        match = re.search(rb"127\.0\.0\.1:(\d+)", item[0])
        expect(match, f"kubectl port-forward printed {item[0]!r}")
        yield int(match.group(1))


def many_connections(ctx):
    """All connections are open at once before the first byte goes over any of them."""
    errors, together = [], threading.Barrier(CONNECTIONS)

    def one(number, port):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
                echo.upgrade(sock, "/upgrade", "web")
                together.wait(60)
                for _ in range(5):
                    echo.round_trip(sock, bytes([number]) + os.urandom(20000))
        except Exception as error:  # noqa: BLE001 - reported below, by number
            together.abort()
            errors.append(f"connection {number}: {type(error).__name__}: {error}")

    with forwarded(ctx) as port:
        threads = [threading.Thread(target=one, args=(n, port), daemon=True) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        expect(not any(t.is_alive() for t in threads), "connections did not finish within 120 s")
    expect(not errors, f"{len(errors)} connections failed: {'; '.join(errors[:3])}")


def download(ctx):
    """A long answer with a checksum that is known here."""
    size, digest = MEGABYTES << 20, hashlib.sha256()
    with ctx.bulk, forwarded(ctx) as port:
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"/blob?bytes={size}")
        answer = connection.getresponse()
        expect(answer.status == 200, f"status {answer.status}")
        received = 0
        while part := answer.read(1 << 20):
            digest.update(part)
            received += len(part)
        seconds = time.monotonic() - started
        connection.close()
    expect(received == size, f"{received} of {size} bytes")
    expect(digest.hexdigest() == sha256_of_numbers(size), "the checksum differs")
    return f"{MEGABYTES / seconds:.0f} MiB/s"
