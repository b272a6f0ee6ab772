"""Ending what belongs to a run that is over: this one at its end, or one that was killed."""

import os
import shutil
import signal
import time

from . import cgroups, network, run_id
from .processes import MARK


def clean_abandoned(say):
    for name, work_directory in run_id.abandoned():
        say(f"cleaning up after an earlier run that was killed: {name}")
        clean(name)
        if os.path.basename(work_directory).startswith(run_id.PREFIX):
            shutil.rmtree(work_directory, ignore_errors=True)


def clean(name):
    """Processes first, then what they held. Only things that carry the run's own name are touched."""
    _kill_all(lambda: _marked(name) | cgroups.processes(name))
    if cgroups.exists(name):
        _retry(lambda: cgroups.remove(name))
    network.remove(name)


def _kill_all(find):
    """Kill until nothing is found, because a process may start another one before it dies."""
    deadline = time.monotonic() + 15
    while (pids := find()) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)


def _marked(name):
    """Processes that inherited the run's mark in their environment. Zombies have none, and are gone soon."""
    wanted = f"{MARK}={name}\0".encode()
    found = set()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if wanted in file.read() + b"\0":
                        found.add(int(entry))
            except OSError:
                continue
    return found


def _retry(action):
    """A control group can be busy for a moment after its last process died."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return action()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
