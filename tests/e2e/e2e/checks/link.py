"""That a pass goes over the link it is named after, seen from outside the programs."""

from .. import wait
from ..fail import expect

ESTABLISHED = "01"
LIMIT = 10


def verify(agent, link):
    """The kernel's list in the agent's network: TCP connections to the agent port exist, but not for quic. Which
    protocol is on them the server tells."""
    port = f":{agent.server.agent_port:04X}"
    with open(f"/proc/{agent.process.pid}/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    count = sum(1 for row in rows if row[2].endswith(port) and row[3] == ESTABLISHED)
    expect((count > 0) == (link != "quic"), f"{count} TCP connections lead to the agent port")
    # The server is ready before it counts the tunnel.
    wait.until(f"the server counts a tunnel on {link}", lambda: _tunnels(agent, link), LIMIT)


def _tunnels(agent, link):
    tunnels = agent.server.metrics().get(f'tunnel_server_tunnels{{link="{link}"}}')
    expect(tunnels == 1, f"it counts {tunnels}")
    return tunnels
