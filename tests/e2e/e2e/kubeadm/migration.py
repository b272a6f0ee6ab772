"""The scenario `migration`: the steps of docs/MIGRATION.md by hand and back, then by the installer and back."""

import json
import os

from .. import kubenewest, kubernetes
from ..cluster import cache_root
from ..fail import expect
from . import command, konnectivity, manual, use
from . import scenario as by_hand
from .cluster import CONTROL_PLANE, Cluster

WHERE = "migration"
SERVER = os.path.join(manual.STATIC_POD, "tunnel-server.yaml")
AGENT = os.path.join(os.path.dirname(manual.STATIC_POD), "tunnel.yaml")
# An agent that comes back while the server starts may have given up on QUIC.
OLD, NEW = ["konnectivity"], ["quic", "h2"]
GENERATION = "deprecated.daemonset.template.generation"  # Counts changes.


def scenario(chosen, report):
    programs = kubernetes.find_kubeadm(chosen, cache_root(), report.say, kubenewest.KONNECTIVITY)
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        installer = command.Installer(cluster, os.path.join(chosen.bin_dir, "tunnel-server"))
        for title, body in [*_konnectivity(chosen, cluster, programs), *_by_hand(cluster), *_by_machine(cluster, installer)]:
            # Each builds upon those before.
            if not report.check(WHERE, title, body):
                return


def _konnectivity(chosen, cluster, programs):
    yield "kubeadm makes a cluster with a worker", lambda: _cluster(cluster, programs)
    yield "the images are imported", lambda: _images(chosen, cluster)
    yield "Konnectivity serves logs and exec", lambda: _then_reached(cluster, lambda: konnectivity.install(cluster))


def _by_hand(cluster):
    """Four mixed fleets, each of which has to work."""
    old, new = _image("agent"), _our_image(AGENT)
    for title, step in [
            ("servers first: the server", lambda: _our_server(cluster, OLD)),
            ("servers first: agents", lambda: _agents(cluster, new, NEW)),
            ("back, agents first: agents", lambda: _agents(cluster, old, OLD)),
            ("back, agents first: the server", lambda: _old_server(cluster)),
            ("agents first: agents", lambda: _new_agents_old_server(cluster, new)),
            ("agents first: the server", lambda: _our_server(cluster, NEW)),
            ("back, servers first: the server", lambda: _old_server(cluster)),
            ("back, servers first: agents", lambda: _old_agents_old_server(cluster, old))]:
        yield title, lambda step=step: _then_reached(cluster, step)


def _by_machine(cluster, installer):
    before = {}
    yield "a dry run shows the move and changes nothing", lambda: _dry_run(cluster, installer, before)
    yield "the installer moves the server, then agents", lambda: _then_reached(cluster, lambda: _install(cluster, installer, before))
    yield "a second run changes nothing", lambda: _again(cluster, installer)
    yield "uninstall puts Konnectivity back", lambda: _then_reached(cluster, lambda: _uninstall(cluster, installer, before))


def _cluster(cluster, programs):
    by_hand.init(cluster, programs)
    cluster.add_node(by_hand.WORKER)
    by_hand.deploy(cluster)
    return by_hand.refused(cluster.kubectl)


def _images(chosen, cluster):
    manual.import_images(cluster, chosen.bin_dir)
    konnectivity.import_images(cluster)
    return f"{_image('server')}, {_image('agent')}"


def _then_reached(cluster, step):
    remark = step()
    use.logs_and_exec(cluster.kubectl)
    return remark


def _our_server(cluster, links):
    """The image, and the user that reads the kube-apiserver's key."""
    text, old = konnectivity.read_manifest(cluster), _image("server")
    konnectivity.write_manifest(cluster, text.replace(
        f"image: {old}\n", f"image: {_our_image(SERVER)}\n    securityContext: {{runAsUser: 0}}\n"))
    konnectivity.wait_server(cluster, ours=True)
    return konnectivity.wait_link(cluster, *links)


def _old_server(cluster):
    konnectivity.write_manifest(cluster, konnectivity.fixture("server"))
    konnectivity.wait_server(cluster, ours=False)


def _agents(cluster, image, links):
    konnectivity.set_agents(cluster, image)
    return konnectivity.wait_link(cluster, *links)


def _new_agents_old_server(cluster, image):
    konnectivity.set_agents(cluster, image)
    konnectivity.wait_server(cluster, ours=False)
    konnectivity.wait_servers_of_agents(cluster, [1])


def _old_agents_old_server(cluster, image):
    """An agent's pod is ready before it is connected."""
    konnectivity.set_agents(cluster, image)
    konnectivity.wait_server(cluster, ours=False)


def _dry_run(cluster, installer, before):
    before.update(_state(cluster))
    said = installer.run("install", "kubeadm", "--dry-run")
    for part in (konnectivity.MANIFEST, _our_image(SERVER), "DaemonSet kube-system/konnectivity-agent", _our_image(AGENT)):
        expect(part in said, f"{part} is not in {said}")
    _differ(cluster, before, [])


def _install(cluster, installer, before):
    said = installer.run("install", "kubeadm", "--yes")
    expect(said.index(f"wrote    {konnectivity.MANIFEST}") < said.index("changed  DaemonSet"), said)
    expect("verified kubectl logs and kubectl exec on worker" in said, said)
    changed = [os.path.relpath(konnectivity.MANIFEST, "/etc/kubernetes"), "tunnel/backup/konnectivity-server.yaml", "tunnel/konnectivity"]
    _differ(cluster, before, ["agents' annotations", "agents' image", *changed])
    return konnectivity.wait_link(cluster, *NEW)


def _again(cluster, installer):
    before = _state(cluster)
    said = installer.run("install", "kubeadm", "--yes")
    expect("wrote" not in said and "changed" not in said, said)
    _differ(cluster, before, [])


def _uninstall(cluster, installer, before):
    """The first run makes all changes and gives up waiting; the next one goes on."""
    said = installer.run("uninstall", "kubeadm", "--yes", "--timeout=1s", code=2)
    expect("run this again" in said, said)
    said = installer.run("uninstall", "kubeadm", "--yes")
    expect("wrote" not in said and "changed" not in said and "verified kubectl logs on worker" in said, said)
    _differ(cluster, before, [])
    konnectivity.wait_server(cluster, ours=False)
    konnectivity.wait_agents(cluster)
    directory = cluster.node(CONTROL_PLANE).seen_from_outside(manual.DIRECTORY)
    expect(not os.path.exists(directory), f"{manual.DIRECTORY} is there")


def _state(cluster):
    """Files, objects, and of the agents' DaemonSet the parts that a person gave."""
    agents = json.loads(cluster.kubectl.ok("get", konnectivity.AGENT, "-n", konnectivity.NAMESPACE, "-o", "json"))
    [container] = agents["spec"]["template"]["spec"]["containers"]
    annotations = {name: value for name, value in agents["metadata"]["annotations"].items() if name != GENERATION}
    return {**command.state(cluster), "agents' annotations": annotations, "agents' image": container.pop("image"),
            "agents": agents["spec"], "agents' labels": agents["metadata"]["labels"]}


def _differ(cluster, before, expected):
    differ = command.difference(before, _state(cluster))
    expect(differ == sorted(expected), f"these differ: {differ}")


def _image(what):
    return konnectivity.image_of(konnectivity.fixture(what))[0]


def _our_image(manifest):
    with open(manifest, encoding="utf-8") as file:
        return konnectivity.image_of(file.read())[0]
