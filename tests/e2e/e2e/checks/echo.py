"""The upgraded connection of the test pod: after the 101 it returns every byte."""

import select
import ssl
import time

from ..fail import expect

CHUNK = 65536
PATIENCE = 60
HEAD_LIMIT = 16384


def upgrade(sock, path, host):
    """Ask for the upgrade. Nothing is sent before the 101, so what follows its head is a fault."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: e2e-echo\r\n\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        expect(len(head) < HEAD_LIMIT, "the answer's head does not end")
        part = sock.recv(4096)
        expect(part, f"the connection ended inside the answer's head: {head!r}")
        head += part
    expect(head.startswith(b"HTTP/1.1 101"), f"the upgrade was answered with {head[:300]!r}")
    expect(head.endswith(b"\r\n\r\n"), "bytes came before any were sent")


def round_trip(sock, data):
    """Send and receive at the same time: an echo of more than the buffers hold would stop otherwise.

    On one thread, because a TLS connection must not be read and written by two.
    """
    sock.setblocking(False)
    got, unsent, deadline = bytearray(), memoryview(data), time.monotonic() + PATIENCE
    while len(got) < len(data):
        unsent = unsent[_try(sock.send, unsent[:CHUNK]) or 0:] if unsent else unsent
        part = _try(sock.recv, CHUNK)
        expect(part != b"", f"the connection ended after {len(got)} of {len(data)} bytes")
        if part:
            got += part
        else:
            expect(time.monotonic() < deadline, f"{len(got)} of {len(data)} bytes came back within {PATIENCE} s")
            select.select([sock], [sock] if unsent else [], [], 1)
    expect(got == data, f"{len(data)} bytes came back changed, from byte {_first_difference(got, data)} on")


def _try(action, argument):
    """None when the socket, or the TLS on it, has to wait first."""
    try:
        return action(argument)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None


def _first_difference(left, right):
    return next((i for i, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), "the end")
