"""Konnectivity, as the Kubernetes documentation installs it, from the manifests by which the installer's tests know it.

Both kinds of server answer on the same ports with metrics of the same names.
"""

import os
import re
import shutil

from .. import image, kubenewest, wait
from ..fail import expect
from . import manual
from .cluster import CONTROL_PLANE

FIXTURES = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../../install/src/fixtures"))
NAME, NAMESPACE, AGENT = "konnectivity", "kube-system", "daemonset/konnectivity-agent"
DIRECTORY = f"/etc/kubernetes/{NAME}"
SOCKETS, KUBECONFIG = f"/etc/kubernetes/{NAME}-server", f"/etc/kubernetes/{NAME}-server.conf"
MANIFEST = f"{manual.MANIFESTS}/{NAME}-server.yaml"
ADMIN, HEALTH = 8133, 8134
AGENTS, LINKS = "konnectivity_network_proxy_agent_open_server_connections", "tunnel_server_tunnels"
IMAGE = re.compile(r"^ +(?:- )?image: (\S+/(\S+):\S+)$", re.MULTILINE)
LIMIT = 120


def fixture(name):
    with open(os.path.join(FIXTURES, f"{NAME}-{name}.yaml"), encoding="utf-8") as file:
        return file.read()


def image_of(manifest):
    """Name of the only image in the text of a manifest, and of its program."""
    [named] = IMAGE.findall(manifest)
    return named


def import_images(cluster):
    for manifest in (fixture("server"), fixture("agent")):
        name, program = image_of(manifest)
        expect(program in kubenewest.KONNECTIVITY, f"{name} is the image of no program that was built")
        archive = os.path.join(cluster.directory, f"{program}.tar")
        cluster.import_image(image.write_program(archive, name, cluster.kubernetes.program(program), "/"))


def install(cluster):
    """Agents, the server, and the kube-apiserver."""
    host = cluster.node(CONTROL_PLANE)
    cluster.kubectl.ok("apply", "-f", "-", stdin=fixture("agent").replace("192.168.56.10", host.network.node))
    manual.write_kubeconfig(cluster, KUBECONFIG)
    os.makedirs(host.seen_from_outside(DIRECTORY))
    shutil.copy(os.path.join(FIXTURES, f"{NAME}-egress.yaml"), host.seen_from_outside(f"{DIRECTORY}/egress.yaml"))
    write_manifest(cluster, fixture("server"))
    manual.activate(cluster, manual.egress(
        f"{DIRECTORY}/egress.yaml", {**manual.volume("egress", DIRECTORY, "Directory"), "readOnly": True},
        manual.volume("konnectivity-uds", SOCKETS, "DirectoryOrCreate")))
    wait_server(cluster, ours=False)


def read_manifest(cluster):
    with open(cluster.node(CONTROL_PLANE).seen_from_outside(MANIFEST), encoding="utf-8") as file:
        return file.read()


def write_manifest(cluster, text):
    """By a rename, as editors do: the kubelet reads no half file."""
    path = cluster.node(CONTROL_PLANE).seen_from_outside(MANIFEST)
    partial = os.path.join(os.path.dirname(path), ".partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(partial, path)


def set_agents(cluster, name):
    """Another image for the agents; ends when all have it."""
    cluster.kubectl.ok("set", "image", AGENT, f"konnectivity-agent={name}", "-n", NAMESPACE)
    wait_agents(cluster)


def wait_agents(cluster):
    cluster.kubectl.ok("rollout", "status", AGENT, "-n", NAMESPACE, f"--timeout={LIMIT}s", timeout=LIMIT + 10)


def wait_server(cluster, ours):
    """Until the server is of this kind and has agents."""
    def there():
        kind = LINKS in _get(cluster, ADMIN, "/metrics")
        return kind == ours and _get(cluster, HEALTH, "/readyz")

    whose = "our" if ours else "Konnectivity's"
    wait.until(f"{whose} server is ready", there, LIMIT, pause=0.5)


def links(cluster):
    """How many tunnels our server has by link."""
    found = re.findall(LINKS + r'\{link="(\w+)"\} (\d+)', _get(cluster, ADMIN, "/metrics"))
    return {link: int(count) for link, count in found if count != "0"}


def wait_link(cluster, *wanted):
    """Until our server has the tunnel of the only agent; returns its link, which is one of these."""
    def link():
        found = links(cluster)
        expect(list(found.values()) == [1] and set(found) <= set(wanted), f"they are {found}")
        return next(iter(found))

    return wait.until(f"the server has one tunnel of {wanted}", link, LIMIT, pause=0.5)


def wait_servers_of_agents(cluster, wanted):
    """Until the agents have so many servers, each."""
    def there():
        counts = _servers_of_agents(cluster)
        expect(counts == wanted, f"they have {counts}")
        return counts

    wait.until(f"agents have {wanted} servers", there, LIMIT, pause=0.5)


def _servers_of_agents(cluster):
    """The kube-apiserver asks the agents through the tunnel."""
    pods = cluster.kubectl.ok("get", "pods", "-n", NAMESPACE, "-l", "k8s-app=konnectivity-agent", "-o", "name").split()
    pages = [cluster.kubectl.raw(f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.split('/')[1]}:{HEALTH}/proxy/metrics") for pod in pods]
    return [int(count) for page in pages for count in re.findall(rf"^{AGENTS} (\d+)$", page, re.MULTILINE)]


def _get(cluster, port, path):
    return cluster.enter(CONTROL_PLANE, ["busybox", "wget", "-q", "-O", "-", f"http://127.0.0.1:{port}{path}"], timeout=10).stdout
