"""What every cluster of the suite begins and ends with: a name, a directory, its processes and its control group."""

import os
import shutil
import tempfile

from . import cgroups, leftovers, run_id
from .fail import Unusable
from .host import hidden
from .processes import Processes


class Workplace:
    """A context manager: leaving it removes everything, however far the making came."""

    def __init__(self, options, say):
        self.options, self.say = options, say
        self.hosts = []

    def __enter__(self):
        self.run = run_id.RunId()
        self.directory = tempfile.mkdtemp(prefix=run_id.PREFIX)
        self.run.note(self.directory)
        self.processes = Processes(os.path.join(self.directory, "logs"), self.run.name)
        if hidden(self.directory):
            self.__exit__()
            raise Unusable(f"Hosts hide {self.directory} from themselves: set TMPDIR to a directory outside /run, /var and /etc.")
        cgroups.create(self.run.name)
        self.say(f"logs are in {self.processes.log_directory}")
        return self

    def __exit__(self, *_):
        """A host's first process takes everything on the host with it; what nobody knows of ends by its mark."""
        for host in self.hosts:
            host.kill()
        self.processes.end_all()
        leftovers.clean(self.run.name)
        if not self.options.keep:
            shutil.rmtree(self.directory, ignore_errors=True)
        self.run.release()

    def all_log_tails(self, lines):
        return self.processes.log_tails(lines)
