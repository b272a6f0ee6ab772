"""Process 1 of a host: private directories, then reaping orphans until it is killed.

Run as a program inside fresh mount, process and UTS namespaces. Container runtimes and kubeadm write
to fixed places (/run/containerd, /var/log/pods, /var/lib/kubelet, /etc/kubernetes); in here those are
directories of the run. When this process is killed the kernel kills everything on the host and drops
every mount.
"""

import os
import signal
import socket
import subprocess
import sys

EMPTY = ("/run", "/var/log", "/var/lib")
COPIED = ("/etc",)  # Programs need the machine's users, certificates and name resolution.
PRIVATE = (*EMPTY, *COPIED)


def main(directory, name):
    """Hide the machine's directories and say by which pid the outside knows this process."""
    outer_pid = os.readlink("/proc/self")  # /proc is still the outer one
    socket.sethostname(name)
    for path in PRIVATE:
        own = os.path.join(directory, path.strip("/").replace("/", "-"))
        os.makedirs(own)
        if path in COPIED:
            subprocess.run(["cp", "--archive", f"{path}/.", own], check=True)
        subprocess.run(["mount", "--bind", own, path], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", "/proc"], check=True)
    partial = os.path.join(directory, "init.pid.part")
    with open(partial, "w", encoding="ascii") as file:
        file.write(outer_pid)
    os.rename(partial, os.path.join(directory, "init.pid"))
    _reap_for_ever()


def _reap_for_ever():
    """Blocking SIGCHLD first: one that comes between the two calls is then kept for sigwait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
