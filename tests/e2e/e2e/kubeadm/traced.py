"""The connections that a program opens, by strace."""

import os
import re

from .. import wait
from ..fail import expect

ADDRESS = re.compile(r'sin6?_port=htons\((\d+)\).*?"([0-9a-fA-F.:]+)"')


class Trace:
    """Traces the only process of that name on a host, its threads and its children. A context manager."""

    def __init__(self, cluster, node, program):
        self._cluster, self._node, self._program = cluster, node, program
        self._file = os.path.join(cluster.directory, f"{node}.{program}.strace")

    def __enter__(self):
        said = self._cluster.enter(self._node, ["sh", "-c", f"grep -lx {self._program} /proc/[0-9]*/comm"]).stdout.split()
        pids = [path.split("/")[2] for path in said]
        expect(len(pids) == 1, f"{self._program} on {self._node} has the processes {pids}")
        command = ["strace", "-f", "-e", "trace=connect", "-o", self._file, "-p", pids[0]]
        self._process = self._cluster.processes.start(f"{self._node}-strace", self._cluster.node(self._node).command(command))

        def attached():
            self._process.must_run()
            return "attached" in self._process.log_since(0)

        wait.until(f"strace is attached to {self._program}", attached, 20)
        return self

    def __exit__(self, *_):
        self._process.end()

    def connected(self):
        """The addresses, each with its port, that the process connected to so far. Local sockets are left out."""
        with open(self._file, encoding="utf-8") as file:
            lines = [line for line in file if "connect(" in line and "AF_UNIX" not in line]
        found = [ADDRESS.search(line) for line in lines]
        unread = [line for line, match in zip(lines, found) if not match]
        expect(not unread, f"these lines of strace have no address: {unread}")
        return {f"{match.group(2)}:{match.group(1)}" for match in found}
