"""etcd and one kube-apiserver per frontend, all over the same etcd, in the root network namespace."""

import json
import os
import urllib.request

from . import kubeconfig, ports, wait


def start_etcd(processes, directory):
    """Returns the client URL. No fsync: this data lives for minutes, and disks of CI machines are slow."""
    client, peer = (f"http://127.0.0.1:{ports.free()}" for _ in range(2))
    process = processes.start("etcd", [
        "etcd", "--name", "e2e", "--data-dir", os.path.join(directory, "etcd"), "--unsafe-no-fsync",
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"e2e={peer}",
        "--log-level", "warn", "--logger", "zap",
    ])

    def healthy():
        process.must_run()
        with urllib.request.urlopen(f"{client}/health", timeout=2) as answer:
            return json.load(answer)["health"] == "true"

    wait.until("etcd is up", healthy, 30)
    return client


class ApiServer:
    """One kube-apiserver with one egress selector. It listens on the veth, where the kubelet reaches it."""

    def __init__(self, frontend, directory, network, pki):
        self.frontend = frontend
        self.directory, self.network, self.pki = directory, network, pki
        self.port = ports.free(network.control_plane)
        self.url = f"https://{network.control_plane}:{self.port}"
        self.kubeconfig = kubeconfig.write(
            os.path.join(directory, f"admin-{frontend}.conf"), self.url, pki.cluster.certificate, *pki.admin)
        self.process = None

    def start(self, processes, binary, etcd_url, egress):
        selector = os.path.join(self.directory, f"egress-{self.frontend}.yaml")
        with open(selector, "w", encoding="utf-8") as file:
            json.dump(egress, file, indent=1)
        command = [binary, "--etcd-servers", etcd_url, "--egress-selector-config-file", selector, *self._serving(), *self._trust()]
        self._run = lambda *more: processes.start(f"kube-apiserver-{self.frontend}", [*command, *more])
        self.process = self._run("--disable-admission-plugins", "ServiceAccount")

    def admit_accounts(self):
        """Restart with the admission of service accounts, which refuses pods until controllers have made the accounts."""
        self.process.kill()
        self.process = self._run()

    def wait_ready(self, kubectl):
        def ready():
            self.process.must_run()
            return kubectl.raw("/readyz", timeout=10) == "ok"

        wait.until(f"kube-apiserver {self.frontend} is ready", ready, 120, pause=0.5)

    def _serving(self):
        certificate, key = self.pki.apiserver
        address = self.network.control_plane
        return [
            "--bind-address", address, "--advertise-address", address, "--secure-port", self.port,
            "--tls-cert-file", certificate, "--tls-private-key-file", key,
            "--cert-dir", os.path.join(self.directory, "apiserver-certs"),
            "--service-cluster-ip-range", self.network.services, "--endpoint-reconciler-type", "none",
            "--allow-privileged", "--v", "1",
        ]

    def _trust(self):
        client_certificate, client_key = self.pki.kubelet_client
        authority, account_key = self.pki.cluster.certificate, self.pki.service_account_key
        return [
            "--client-ca-file", authority, "--authorization-mode", "Node,RBAC",
            "--kubelet-certificate-authority", authority, "--kubelet-preferred-address-types", "InternalIP",
            "--kubelet-client-certificate", client_certificate, "--kubelet-client-key", client_key,
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-account-key-file", account_key, "--service-account-signing-key-file", account_key,
        ]
