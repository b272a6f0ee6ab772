"""The control groups of one run: one directory of its own in every hierarchy.

The kubelet puts all pods below it. So what belongs to a run is known by its path alone, and
another container runtime on the machine is never touched. Works with cgroup v1 and v2.
"""

import os

ROOT = "/sys/fs/cgroup"


def create(name):
    for hierarchy in _hierarchies():
        path = os.path.join(hierarchy, name)
        os.makedirs(path, exist_ok=True)
        _inherit_cpuset(hierarchy, path)
        _pass_controllers_down(hierarchy, path)


def remove(name):
    """Remove the directories, children first. They must be empty of processes; see `processes`."""
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(os.path.join(hierarchy, name), topdown=False):
            os.rmdir(directory)


def processes(name):
    """Every process in the run's groups."""
    found = set()
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(os.path.join(hierarchy, name)):
            with open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                found.update(int(line) for line in file)
    return found


def exists(name):
    return any(os.path.isdir(os.path.join(hierarchy, name)) for hierarchy in _hierarchies())


def _hierarchies():
    """The mount points to use: the unified one alone (v2), or one for each controller (v1)."""
    if os.path.exists(os.path.join(ROOT, "cgroup.controllers")):
        return [ROOT]
    paths = [os.path.join(ROOT, entry) for entry in sorted(os.listdir(ROOT))]
    return [p for p in paths if not os.path.islink(p) and os.path.ismount(p)]


def _inherit_cpuset(hierarchy, path):
    """A new v1 cpuset is empty, and nothing can run in an empty one."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        source, target = os.path.join(hierarchy, name), os.path.join(path, name)
        if os.path.exists(source) and os.path.exists(target):
            with open(source, encoding="ascii") as inherited, open(target, "w", encoding="ascii") as own:
                own.write(inherited.read())


def _pass_controllers_down(hierarchy, path):
    """In v2 a group's children have only the controllers that the group hands on."""
    for directory in (hierarchy, path):
        control = os.path.join(directory, "cgroup.subtree_control")
        if hierarchy == ROOT and os.path.exists(control):
            for controller in ("cpu", "cpuset", "memory", "pids", "io"):
                try:
                    with open(control, "w", encoding="ascii") as file:
                        file.write(f"+{controller}")
                except OSError:
                    continue  # This machine lacks the controller; the kubelet names it if it needs it.
