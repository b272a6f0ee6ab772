"""Free ports."""

import random
import socket

# Below the range from which systems take the local ports of outgoing connections: such a connection
# could otherwise take a port between its choice here and its use. Konnectivity, whose manifests our
# programs must accept, refuses ports from that range too.
RANGE = range(20000, 32000)

_given = set()


def free(address="127.0.0.1"):
    """A port that nobody listens on, for TCP and for UDP, and that this run has not given out yet."""
    while True:
        port = random.choice(RANGE)
        if port not in _given and _can_bind(address, port):
            _given.add(port)
            return port


def _can_bind(address, port):
    with socket.socket() as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind((address, port))
            udp.bind((address, port))
        except OSError:
            return False
    return True
