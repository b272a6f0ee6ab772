"""Checks manifests beyond their syntax: `check.py objects|same|flags …`.

objects MINOR FILE…      every object has the schema of its kind in every Kubernetes from 1.MINOR to the newest that is
                         known here, pods outside of the host's network satisfy Pod Security `restricted`, and roles
                         grant nothing beyond RIGHTS
same FILE FILE           both files have the same objects for agents; of a flag that is given twice, the last counts
flags DIRECTORY FILE…    the programs in the directory take the arguments of their containers
"""

import difflib
import os
import subprocess
import sys

import kubernetes_validate
import yaml

NEWEST = 37
# Their definitions come with what serves them, not with Kubernetes.
FOREIGN = ("monitoring.coreos.com/", "apiserver.k8s.io/")
# The most that any role may grant: verbs by the name and resource of the role. `helm test` reads logs.
RIGHTS = {
    ("tunnel-server", "tokenreviews"): {"create"},
    ("tunnel-server", "nodes"): {"list", "watch"},
    ("tunnel-server-pods", "pods"): {"get"},
    ("tunnel-server", "leases"): {"get", "list", "create", "update", "delete"},
    ("tunnel-agent", "leases"): {"get", "list", "watch"},
    ("tunnel-test", "pods"): {"get", "list"},
    ("tunnel-test", "pods/log"): {"get"},
}


def load(path):
    """The objects of a file, with those inside its ConfigMaps."""
    with open(path, encoding="utf-8") as file:
        found = [each for each in yaml.safe_load_all(file) if each]
    inside = [yaml.safe_load(text) for each in found if each["kind"] == "ConfigMap" for text in each["data"].values()]
    # The policy of destinations has no kind.
    inside = [each for each in inside if "apiVersion" in each]
    return [each for each in found + inside if not each["apiVersion"].startswith(FOREIGN)]


def title(each):
    return f"{each['kind']} {each['metadata']['name']}"


def pod(each):
    """The pod's specification of an object that has one."""
    return each["spec"] if each["kind"] == "Pod" else each.get("spec", {}).get("template", {}).get("spec")


def objects(arguments):
    oldest, *paths = arguments
    versions = [f"1.{minor}" for minor in range(int(oldest), NEWEST + 1)]
    faults, count = [], 0
    for path in paths:
        for each in load(path):
            count += 1
            for version in versions:
                try:
                    kubernetes_validate.validate(each, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    faults.append(f"{path}: {title(each)}, {version}: {error.message}")
            if pod(each) and not pod(each).get("hostNetwork"):
                faults += [f"{path}: {title(each)}: {fault}" for fault in unrestricted(pod(each))]
            faults += [f"{path}: {title(each)}: {fault}" for fault in excess(each)]
    return faults, f"{count} objects, Kubernetes {versions[0]} to {versions[-1]}"


def unrestricted(spec):
    """What Pod Security `restricted` would refuse."""
    security = spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("runAsUser") == 0:
        yield "may run as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    for volume in spec.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind not in ("projected", "secret", "configMap", "emptyDir"):
            yield f"has a volume of kind {kind}"
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            yield f"container {container['name']} keeps privileges"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"container {container['name']} has a port of the host"


def excess(each):
    """Rights of a role that the programs do not need."""
    holder = each["metadata"]["name"].rpartition(":")[2]
    for rule in each.get("rules", []):
        for resource in rule["resources"]:
            beyond = set(rule["verbs"]) - RIGHTS.get((holder, resource), set())
            if beyond:
                yield f"grants {', '.join(sorted(beyond))} of {resource}"


def same(paths):
    texts = [[yaml.dump(plain(each)).splitlines() for each in sorted(load(path), key=title)
              if each["kind"] != "Namespace" and "tunnel-server" not in title(each)] for path in paths]
    lines = [sum(text, []) for text in texts]
    return list(difflib.unified_diff(*lines, *paths, lineterm="")), f"{len(texts[0])} objects"


def plain(each):
    """An object without labels, its arguments as a mapping, its volumes in the order of their names."""
    each["metadata"].pop("labels", None)
    spec = pod(each) or {"containers": []}
    for container in spec["containers"]:
        container["args"] = dict(argument.partition("=")[::2] for argument in container["args"])
        container["volumeMounts"].sort(key=lambda mount: mount["name"])
    spec.get("volumes", []).sort(key=lambda volume: volume["name"])
    return each


def flags(arguments):
    directory, *paths = arguments
    faults, count = [], 0
    containers = [each for path in paths for found in load(path) for each in (pod(found) or {}).get("containers", [])]
    for container in containers:
        program = os.path.join(directory, container["name"])
        if not container["name"].startswith("tunnel-"):
            continue
        # Flags are read in order, and --version ends the program after all of them.
        ran = subprocess.run([program, *container["args"], "--version"], capture_output=True, text=True, check=False)
        count += 1
        if ran.returncode != 0:
            faults.append(f"{container['name']}: {ran.stderr.strip()}")
    return faults, f"{count} command lines"


def main():
    command = {"objects": objects, "same": same, "flags": flags}[sys.argv[1]]
    faults, summary = command(sys.argv[2:])
    if faults:
        raise SystemExit("\n".join(faults))
    print(f"{sys.argv[1]}: {summary}")


main()
