"""That a pass goes over the link it is named after, seen from outside the programs."""

from ..fail import expect

ESTABLISHED = "01"


def verify(agent, link):
    """The kernel's list in the agent's network: TCP connections to the agent port exist, but not for quic. Which
    protocol is on them the server tells."""
    port = f":{agent.server.agent_port:04X}"
    with open(f"/proc/{agent.process.pid}/net/tcp", encoding="ascii") as file:
        rows = [line.split() for line in file][1:]
    count = sum(1 for row in rows if row[2].endswith(port) and row[3] == ESTABLISHED)
    expect((count > 0) == (link != "quic"), f"{count} TCP connections lead to the agent port")
    tunnels = agent.server.metrics().get(f'tunnel_server_tunnels{{link="{link}"}}')
    expect(tunnels == 1, f"the server counts {tunnels} tunnels on {link}")
