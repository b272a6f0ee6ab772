"""kubectl exec without and with a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

from ..fail import expect
from ..wait import until

CODES = {"true": 0, "exit 1": 1, "kill -9 $$": 137}


def exit_code(command):
    """A check that the command's own exit code is kubectl's."""
    def check(ctx):
        result = ctx.kubectl.try_("exec", "box", "--", "sh", "-c", f"echo out; echo err >&2; {command}")
        expect(result.returncode == CODES[command], f"exit code {result.returncode}: {result.stderr.strip()}")
        expect(result.stdout == "out\n", f"standard output was {result.stdout!r}")
        expect("err\n" in result.stderr, f"standard error was {result.stderr!r}")
    return check


def terminal(ctx):
    """A shell on a terminal: it is one, its size is ours and follows ours, typing is answered, its code arrives."""
    screen, ours = pty.openpty()
    _resize(screen, 37, 101)
    command = ctx.kubectl.start("exec", "-it", "box", "--", "sh", stdin=ours, stdout=ours, stderr=ours,
                                wrapper=["setsid", "--ctty"])
    os.close(ours)
    with command:
        shell = _Shell(screen)
        try:
            expect(re.search(r"/dev/pts/\d+", shell.ask("tty")), f"tty printed {shell.seen!r}")
            until("the shell has our size", lambda: "37 101" in shell.ask("stty size"), 15)
            _resize(screen, 50, 120)
            until("the shell has our new size", lambda: "50 120" in shell.ask("stty size"), 15)
            expect("is 42" in shell.ask("echo is $((6*7))"), f"the sum printed {shell.seen!r}")
            os.write(screen, b"exit 7\n")
            code = command.wait(15)
            expect(code == 7, f"exit code {code} after `exit 7`")
        finally:
            os.close(screen)


class _Shell:
    """Types a command and returns what the screen shows until an end mark that the command echoes after itself.

    The mark is typed in two pieces, so that the terminal's echo of the typing is not taken for the answer.
    """

    def __init__(self, screen):
        self._screen, self._count, self.seen = screen, 0, ""

    def ask(self, command):
        self._count += 1
        os.write(self._screen, f"{command}; echo en''d-{self._count}\n".encode())
        mark, self.seen, deadline = f"end-{self._count}", "", time.monotonic() + 15
        while mark not in self.seen:
            ready, _, _ = select.select([self._screen], [], [], max(0, deadline - time.monotonic()))
            expect(ready, f"no answer to `{command}` within 15 s, the screen shows {self.seen!r}")
            self.seen += os.read(self._screen, 65536).decode(errors="replace")
        return self.seen


def _resize(screen, rows, columns):
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
