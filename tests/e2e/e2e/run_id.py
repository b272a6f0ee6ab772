"""Names of one run, and the marks by which a later run finds what a killed one left.

A run holds a lock on its mark file. The kernel drops the lock with the process, so a mark
that can be locked belongs to a run that is gone, whatever happened to it.
"""

import contextlib
import fcntl
import os
import secrets

MARKS = "/run/tunnel-e2e"
PREFIX = "te2e"


class RunId:
    """A short random id: `te2e` + id + one letter must fit the 15 characters of an interface name."""

    def __init__(self):
        os.makedirs(MARKS, exist_ok=True)
        self.id = secrets.token_hex(3)
        # Locked before it has its name: another run would take an unlocked mark for an abandoned one.
        unseen = os.path.join(MARKS, f".{self.id}")
        self._mark = _lock(unseen, os.O_CREAT)
        os.rename(unseen, os.path.join(MARKS, self.id))

    @property
    def name(self):
        """The name of everything that belongs to this run: namespace, cgroup, interfaces."""
        return PREFIX + self.id

    def note(self, work_directory):
        """The mark remembers the work directory, which may be anywhere."""
        os.pwrite(self._mark, work_directory.encode(), 0)

    def release(self):
        os.unlink(os.path.join(MARKS, self.id))
        os.close(self._mark)


def abandoned():
    """(name, work directory) of runs that ended without cleaning up; their marks are removed by `forget`."""
    for entry in sorted(os.listdir(MARKS)) if os.path.isdir(MARKS) else []:
        if entry.startswith("."):
            continue
        path = os.path.join(MARKS, entry)
        try:
            mark = _lock(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        try:
            yield PREFIX + entry, os.pread(mark, 4096, 0).decode()
            # Its own run may have just removed it, or another one that cleans up.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        finally:
            os.close(mark)


def _lock(path, flags=0):
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor
