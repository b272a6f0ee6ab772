"""The controllers and the scheduler of Kubernetes, which only the scenario of the chart needs."""

from . import ports, wait

PROGRAMS = ("kube-controller-manager", "kube-scheduler")


def start(cluster, kubectl):
    """Starts both; returns when the controllers have given every namespace its account and its CA."""
    api = cluster.apis[cluster.frontends[0]]
    pki = cluster.pki
    ours = {"kube-controller-manager": [
        "--root-ca-file", pki.cluster.certificate, "--service-account-private-key-file", pki.service_account_key]}
    started = [cluster.processes.start(name, [
        cluster.kubernetes.program(name), "--kubeconfig", api.kubeconfig, "--leader-elect=false",
        "--bind-address", "127.0.0.1", "--secure-port", ports.free(), *ours.get(name, [])]) for name in PROGRAMS]

    def working():
        for process in started:
            process.must_run()
        kubectl.ok("get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", "kube-system")
        return True

    wait.until("the controllers work", working, 60, pause=0.5)
    return started
