"""Service accounts, their tokens, and what the programs under test may do in the cluster.

No controllers run, so accounts and roles are made here. Tokens come from the API server (TokenRequest) and
from the kubelet (a projected volume); those that no API server would give out are signed with its key.
"""

import base64
import json
import os
import time

from . import kubeconfig, wait
from .shell import run

NAMESPACE, ACCOUNT, AUDIENCE = "kube-system", "konnectivity-agent", "system:konnectivity-server"
POD = "token"
LABEL = ("k8s-app", "konnectivity-server")


def create(kubectl):
    """The account of agents, another one, and a server and an agent with just the rights they need."""
    for namespace, name in ((NAMESPACE, ACCOUNT), (NAMESPACE, "other"), ("default", ACCOUNT)):
        kubectl.ok("create", "serviceaccount", name, "-n", namespace)
    kubectl.ok("create", "clusterrolebinding", "tunnel-server", "--clusterrole=system:auth-delegator", "--user=tunnel-server")
    kubectl.ok("create", "role", "tunnel-server-pods", "-n", NAMESPACE, "--verb=get", "--resource=pods")
    kubectl.ok("create", "rolebinding", "tunnel-server-pods", "-n", NAMESPACE, "--role=tunnel-server-pods", "--user=tunnel-server")
    for user, verbs in (("tunnel-server", "get,list,create,update,delete"), ("tunnel-agent", "get,list,watch")):
        kubectl.ok("create", "role", user, "-n", NAMESPACE, f"--verb={verbs}", "--resource=leases.coordination.k8s.io")
        kubectl.ok("create", "rolebinding", user, "-n", NAMESPACE, f"--role={user}", f"--user={user}")


def credentials(cluster, user):
    """A kubeconfig for one of those users; returns its path."""
    api = next(iter(cluster.apis.values()))
    certificate, key = cluster.pki.cluster.issue(f"kube-{user}", f"/CN={user}")
    path = os.path.join(cluster.directory, f"{user}.conf")
    return kubeconfig.write(path, api.url, cluster.pki.cluster.certificate, certificate, key)


def request(kubectl, *, audience=AUDIENCE, namespace=NAMESPACE, name=ACCOUNT, pod=None):
    """A token from the API server, bound to the pod of that name if there is one."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
             "spec": {"audiences": [audience], "expirationSeconds": 600}}
    if pod:
        uid = kubectl.ok("get", "pod", pod, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
        asked["spec"]["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
    answer = json.loads(kubectl.ok("create", "--raw", path, "-f", "-", stdin=json.dumps(asked)))
    return answer["status"]["token"]


def extra(kubectl, token):
    """What a review of the token says of its holder beyond the name; each is a list."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [AUDIENCE]}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    answer = json.loads(kubectl.ok("create", "--raw", path, "-f", "-", stdin=json.dumps(review)))
    return answer["status"].get("user", {}).get("extra", {})


def create_pod(kubectl, node, image):
    """A pod with a projected token, as agents' pods have it. It needs no mount by the API server's admission."""
    token = {"serviceAccountToken": {"path": "token", "audience": AUDIENCE, "expirationSeconds": 3600}}
    kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {
            "nodeName": node, "serviceAccountName": ACCOUNT, "automountServiceAccountToken": False,
            "enableServiceLinks": False, "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "projected", "projected": {"sources": [token]}}],
            "containers": [{
                "name": "main", "image": image, "imagePullPolicy": "Never", "command": ["/bin/pod", "wait"],
                "volumeMounts": [{"name": "projected", "mountPath": "/token", "readOnly": True}]}]}}))


def projected(kubectl, node):
    """The path of the token that the kubelet put into that pod, as the node sees it."""
    uid = wait.until("the pod with a token has an id", lambda: kubectl.ok(
        "get", "pod", POD, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}"), 20)
    path = os.path.join(
        node.directory, "kubelet", "pods", uid, "volumes", "kubernetes.io~projected", "projected", "token")
    wait.until("the kubelet projected a token", lambda: run([*node.enter(), "cat", path]).stdout, 60, pause=0.5)
    return path


def expired(token, key, directory):
    """The same token, good until an hour ago."""
    head, claims = (json.loads(_decode(part)) for part in token.split(".")[:2])
    past = int(time.time()) - 3600
    return _sign(head, {**claims, "iat": past - 600, "nbf": past - 600, "exp": past}, key, directory)


def forged(token):
    """The same token with a signature that is not the cluster's."""
    head, claims, signature = token.split(".")
    return ".".join((head, claims, ("A" if signature[0] != "A" else "B") + signature[1:]))


def _sign(head, claims, key, directory):
    """A JWT by ES256 or RS256, with the openssl program."""
    content = ".".join(_encode(json.dumps(part).encode()) for part in (head, claims))
    message, signature = (os.path.join(directory, f"jwt.{kind}") for kind in ("message", "signature"))
    with open(message, "w", encoding="ascii") as file:
        file.write(content)
    run(["openssl", "dgst", "-sha256", "-sign", key, "-out", signature, message])
    with open(signature, "rb") as file:
        signed = file.read()
    return f"{content}.{_encode(_plain(signed) if head['alg'] == 'ES256' else signed)}"


def _plain(der):
    """The two numbers of an ECDSA signature, 32 bytes each, which openssl wraps into DER. One by RSA is plain already."""
    numbers, at = [], 2
    for _ in range(2):
        length = der[at + 1]
        numbers.append(der[at + 2:at + 2 + length].lstrip(b"\0").rjust(32, b"\0"))
        at += 2 + length
    return b"".join(numbers)


def _encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
