"""What runs in the cluster. Pods are bound to the node by name: no scheduler, no controllers."""

import base64
import json

from . import image, wait

NAMESPACE = "/api/v1/namespaces/default"
WEB_PORT, HOOK_PORT = 8080, 8443
GONE = "gone"
NOTES_GROUP = "notes.tunnel.test"
NODE_LOG = "e2e.log"
NODE_LOG_TEXT = "".join(f"line {number} of the node\n" for number in range(1, 10001))
FIRST_LINES = [f"line {number} of the box" for number in range(1, 101)]


def create_pods(kubectl, node_name):
    """Everything the checks talk to; returns when all of it is ready."""
    for pod in _pods(node_name):
        kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(pod))

    def ready():
        items = json.loads(kubectl.ok("get", "pods", "-o", "json"))["items"]
        waiting = [p["metadata"]["name"] for p in items if not _is_ready(p)]
        return [] if waiting else {p["metadata"]["name"]: p["status"]["podIP"] for p in items}

    return wait.until("all pods are ready", ready, 120, pause=0.5)


def create_service(kubectl, name, cluster_ip, port, pod_ip, sliced):
    """A service and its endpoints, which no controller makes here."""
    service = _object("v1", "Service", name, spec={
        "clusterIP": cluster_ip, "ports": [{"port": 443 if port == HOOK_PORT else 80, "targetPort": port}]})
    for item in (service, (_slice if sliced else _endpoints)(name, port, pod_ip)):
        kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(item))


def _slice(name, port, pod_ip):
    """What the service proxy and the aggregator read today. A port without a name has an empty one."""
    document = _object("discovery.k8s.io/v1", "EndpointSlice", name, addressType="IPv4", ports=[{"name": "", "port": port}],
                       endpoints=[{"addresses": [pod_ip], "conditions": {"ready": True}, "targetRef": _target(name)}])
    document["metadata"]["labels"] = {"kubernetes.io/service-name": name}
    return document


def _endpoints(name, port, pod_ip):
    """What they read before Kubernetes had slices."""
    address = {"ip": pod_ip, "targetRef": _target(name)}
    return _object("v1", "Endpoints", name, subsets=[{"addresses": [address], "ports": [{"port": port}]}])


def _target(name):
    """The service proxy needs it."""
    return {"kind": "Pod", "name": name, "namespace": "default"}


def create_gone_pod(kubectl, pod_ip):
    """A pod that runs nowhere, with an address that nobody has: what is left when a node has just died."""
    kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(_pod(None, GONE, ["/bin/pod", "wait"])))
    pod = json.loads(kubectl.ok("get", "pod", GONE, "-o", "json"))
    pod["status"].update(phase="Running", podIP=pod_ip, podIPs=[{"ip": pod_ip}])
    kubectl.ok("replace", "--raw", f"{NAMESPACE}/pods/{GONE}/status", "-f", "-", stdin=json.dumps(pod))


def create_api_service(kubectl, group, authority_path):
    """An API whose server is the hook pod, behind its service."""
    spec = {"group": group, "version": "v1", "groupPriorityMinimum": 1000, "versionPriority": 10,
            "caBundle": _bundle(authority_path), "service": {"namespace": "default", "name": "hook", "port": 443}}
    document = _object("apiregistration.k8s.io/v1", "APIService", f"v1.{group}", spec=spec)
    kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(document))


def create_webhook(kubectl, authority_path):
    """Only labelled ConfigMaps are asked about, so that nothing else of the cluster depends on the webhook."""
    hook = {
        "name": "hook.tunnel.test", "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 10,
        "admissionReviewVersions": ["v1"], "objectSelector": {"matchLabels": {"ask": "hook"}},
        "clientConfig": {"caBundle": _bundle(authority_path), "service": {"namespace": "default", "name": "hook", "path": "/review"}},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    }
    document = _object("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "hook", webhooks=[hook])
    kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(document))


def create_notes(kubectl, authority_path):
    """A resource with two versions, which the hook pod converts."""
    text = {"type": "string"}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"text": text, "convertedFrom": text}}}
    webhook = {"conversionReviewVersions": ["v1"], "clientConfig": {
        "caBundle": _bundle(authority_path), "service": {"namespace": "default", "name": "hook", "path": "/convert"}}}
    spec = {
        "group": NOTES_GROUP, "scope": "Namespaced", "names": {"plural": "notes", "singular": "note", "kind": "Note"},
        "versions": [{"name": v, "served": True, "storage": v == "v1", "schema": schema} for v in ("v1", "v2")],
        "conversion": {"strategy": "Webhook", "webhook": webhook},
    }
    document = _object("apiextensions.k8s.io/v1", "CustomResourceDefinition", f"notes.{NOTES_GROUP}", spec=spec)
    kubectl.ok("create", "--validate=false", "-f", "-", stdin=json.dumps(document))


def note(name, text):
    return json.dumps(_object(f"{NOTES_GROUP}/v1", "Note", name, text=text))


def config_map(name):
    document = _object("v1", "ConfigMap", name, data={})
    document["metadata"]["labels"] = {"ask": "hook"}
    return json.dumps(document)


def _pods(node_name):
    lines = "for n in $(seq 1 100); do echo line $n of the box; done; exec pod wait"
    # Lines of its own show when an output is attached: containerd attaches the input first.
    answer = 'while sleep 1; do echo waiting; done & while read line; do echo "answer to $line"; done'
    yield _pod(node_name, "box", ["/bin/busybox", "sh", "-c", lines])
    yield _pod(node_name, "counter", ["/bin/pod", "count"])
    yield _pod(node_name, "talker", ["/bin/busybox", "sh", "-c", answer], stdin=True)
    yield _pod(node_name, "web", ["/bin/pod", "serve"], port=WEB_PORT)
    yield _pod(node_name, "hook", ["/bin/pod", "webhook"], port=HOOK_PORT)


def _pod(node_name, name, command, stdin=False, port=None):
    container = {"name": "main", "image": image.NAME, "imagePullPolicy": "Never", "command": command, "stdin": stdin}
    if port:
        container["ports"] = [{"containerPort": port}]
        container["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
    return _object("v1", "Pod", name, spec={
        **({"nodeName": node_name} if node_name else {}), "containers": [container], "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False, "enableServiceLinks": False, "dnsPolicy": "Default"})


def _is_ready(pod):
    conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and pod["status"].get("podIP")


def _bundle(path):
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def _object(version, kind, name, **fields):
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}
