"""End-to-end suite: a real cluster whose node is reachable only through the tunnel."""
