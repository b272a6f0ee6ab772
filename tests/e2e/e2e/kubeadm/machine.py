"""A host that kubeadm makes a node of. The suite is its service manager: it starts the kubelet when kubeadm says so."""

import glob
import os
import shlex
import shutil

from .. import cgroups, wait
from ..host import Host
from ..shell import run

STARTS_KUBELET = "[kubelet-start] Starting the kubelet"
LIMIT = 300


class Machine(Host):
    """containerd is where kubeadm looks for it, and Kubernetes' programs are in the PATH."""

    def __init__(self, name, directory, network, processes, kubernetes, run_name):
        super().__init__(name, directory, network, processes)
        self.cgroup, self._kubernetes = f"{run_name}/{name}", kubernetes
        self.socket, self.home = "/run/containerd/containerd.sock", self._path("home")

    def boot(self, hosts):
        """`hosts` are lines for /etc/hosts."""
        cgroups.create(self.cgroup)
        os.makedirs(os.path.join(self.home, ".kube"))
        self.start_init()
        with open(self.seen_from_outside("/etc/hosts"), "a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in hosts)
        # The machine may be a node itself. The directory of manifests comes with the kubelet's package.
        shutil.rmtree(self.seen_from_outside("/etc/kubernetes"), ignore_errors=True)
        os.makedirs(self.seen_from_outside("/etc/kubernetes/manifests"))
        self.start_containerd()

    def command(self, argv):
        """The command as its operator would run it there. It ends with whoever started it."""
        surroundings = [f"PATH={self._kubernetes.directory}:{os.environ['PATH']}", f"HOME={self.home}"]
        return [*self.enter(), "setpriv", "--pdeathsig", "KILL", "--", "env", *surroundings, *argv]

    def run(self, argv, **how):
        return run(self.command(argv), env=self.processes.environment, **how)

    def kubeadm(self, subcommand, configuration):
        """`kubeadm init` or `kubeadm join`, which wait for a kubelet that somebody else starts."""
        file = f"/etc/kubernetes/{subcommand}.yaml"
        with open(self.seen_from_outside(file), "w", encoding="utf-8") as opened:
            opened.write(configuration)
        process = self._start("kubeadm", self.command(["kubeadm", subcommand, "--config", file]))

        def told():
            if STARTS_KUBELET not in process.log_since(0):
                process.must_run()
                return False
            return True

        wait.until(f"kubeadm {subcommand} wants the kubelet", told, LIMIT)
        kubelet = self._start_kubelet()
        wait.until(f"kubeadm {subcommand} ends", lambda: kubelet.must_run() or not process.running(), LIMIT)
        if process.wait(1) != 0:
            process.must_run()

    def pod_logs(self, wanted):
        """The log files of the pods that run or ran here, of those whose name is wanted."""
        for path in sorted(glob.glob(f"{self._path('var-log')}/pods/*/*/*.log")):
            name = path.split("/")[-3].split("_")[1]
            if wanted(name):
                yield f"{self.name}/{name}", path

    def _start_kubelet(self):
        """As kubeadm's drop-in for systemd does."""
        with open(self.seen_from_outside("/var/lib/kubelet/kubeadm-flags.env"), encoding="utf-8") as file:
            _, flags = shlex.split(file.read())[0].split("=", 1)
        return self._start("kubelet", self.command([
            "kubelet", "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf",
            "--kubeconfig=/etc/kubernetes/kubelet.conf", "--config=/var/lib/kubelet/config.yaml", *shlex.split(flags)]))
