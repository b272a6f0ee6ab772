"""Certificates, made with the openssl program: ECDSA P-256, valid for a month."""

import os

from .shell import run

# `status` warns of fewer than 14.
DAYS = 30


class Authority:
    """A CA in a directory of its own files: NAME.crt, NAME.key."""

    def __init__(self, directory, name):
        self.directory, self.name = directory, name
        self.certificate, self.key = self._path(name, "crt"), self._path(name, "key")
        _make_key(self.key)
        run(["openssl", "req", "-x509", "-new", "-key", self.key, "-out", self.certificate, "-days", DAYS,
             "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])

    def issue(self, name, subject, sans=()):
        """A leaf for client and server use; returns the paths of certificate and key."""
        certificate, key, request = (self._path(name, kind) for kind in ("crt", "key", "csr"))
        extensions = self._path(name, "ext")
        _make_key(key)
        run(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
        with open(extensions, "w", encoding="ascii") as file:
            file.write("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n")
            file.write("extendedKeyUsage=serverAuth,clientAuth\n")
            file.write("subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
            if sans:
                file.write("subjectAltName=" + ",".join(sans) + "\n")
        run(["openssl", "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
             "-CAcreateserial", "-days", DAYS, "-extfile", extensions, "-out", certificate])
        return certificate, key

    def _path(self, name, kind):
        return os.path.join(self.directory, f"{name}.{kind}")


class Pki:
    """Every certificate of the run. Three authorities, so that taking one for another is an error."""

    def __init__(self, directory, network, node_name):
        os.makedirs(directory, mode=0o700)
        outer, node = f"IP:{network.control_plane}", f"IP:{network.node}"
        self.cluster = Authority(directory, "cluster-ca")
        self.agents = Authority(directory, "agents-ca")
        self.frontend = Authority(directory, "frontend-ca")
        self.apiserver = self.cluster.issue("apiserver", "/CN=kube-apiserver", [outer, "IP:127.0.0.1", f"IP:{network.kubernetes_service}"])
        self.kubelet_client = self.cluster.issue("kubelet-client", "/O=system:masters/CN=kubelet-client")
        self.admin = self.cluster.issue("admin", "/O=system:masters/CN=admin")
        self.kubelet = self.cluster.issue(
            "kubelet", f"/O=system:nodes/CN=system:node:{node_name}", [node, f"DNS:{node_name}"])
        self.webhook = self.cluster.issue("webhook", "/CN=webhook", ["DNS:hook.default.svc"])
        self.server_for_agents = self.agents.issue("server", "/CN=tunnel-server", [outer])
        self.agent = self.agents.issue("agent", f"/O=system:nodes/CN=system:node:{node_name}", [node, f"DNS:{node_name}"])
        self.server_for_frontend = self.frontend.issue("frontend", "/CN=tunnel-server", ["IP:127.0.0.1"])
        self.frontend_client = self.frontend.issue("frontend-client", "/CN=kube-apiserver")
        self.service_account_key = os.path.join(directory, "service-account.key")
        _make_key(self.service_account_key)


def _make_key(path):
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
    os.chmod(path, 0o600)
