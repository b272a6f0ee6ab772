"""Long-running programs: each with a log file of its own, each ended by its pid.

`setpriv --pdeathsig` makes the kernel end them with the suite, so that even `kill -9` of the
suite leaves no process behind. It replaces itself by the program, so the pid is the program's.
That signal is bound to the thread that started the child: long-lived programs are started on
the main thread only.
"""

import os
import signal
import subprocess

from .fail import Hopeless

MARK = "TUNNEL_E2E_RUN"
# Time for the kernel to take down a killed program and its memory.
KILLED_SECONDS = 60


class Processes:
    """Starts programs for one run and ends all of them, the latest first."""

    def __init__(self, log_directory, run_id):
        self.log_directory = log_directory
        self.environment = {**os.environ, MARK: run_id}
        self._started = []
        os.makedirs(log_directory, exist_ok=True)

    def start(self, name, args):
        process = Process(name, [str(a) for a in args], os.path.join(self.log_directory, f"{name}.log"), self.environment)
        self._started.append(process)
        return process

    def end_all(self):
        for process in reversed(self._started):
            process.end()

    def log_tails(self, lines, wanted=lambda name: True):
        """(name, last lines) of the logs of all programs whose name is wanted."""
        for name in dict.fromkeys(p.name for p in self._started if wanted(p.name)):
            yield name, tail(os.path.join(self.log_directory, f"{name}.log"), lines)


class Process:
    """One running program. Its log may have earlier runs of it; its own lines follow `log_begin`."""

    def __init__(self, name, args, log_path, environment):
        self.name, self.log_path = name, log_path
        log = open(log_path, "ab")
        with log:
            log.write(f"# {' '.join(args)}\n".encode())
            log.flush()
            self.log_begin = log.tell()
            self._popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *args],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)

    @property
    def pid(self):
        return self._popen.pid

    def running(self):
        return self._popen.poll() is None

    def signal(self, number):
        if self.running():
            self._popen.send_signal(number)

    def wait(self, seconds):
        """The exit code; a signal's number is negative. Raises when it does not end in time."""
        return self._popen.wait(seconds)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait(KILLED_SECONDS)

    def end(self, patience=5):
        self.signal(signal.SIGTERM)
        try:
            self.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_size(self):
        """Where its log ends now, for `log_since`."""
        return os.path.getsize(self.log_path)

    def log_since(self, position):
        with open(self.log_path, "rb") as file:
            file.seek(position)
            return file.read().decode(errors="replace")

    def must_run(self):
        """Raise with the end of its log when the program has ended: waiting on would be pointless."""
        if not self.running():
            raise Hopeless(f"{self.name} ended with {self._popen.returncode}: " + "\n".join(tail(self.log_path, 15)))


def tail(path, lines):
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 200 * 300))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
