"""Kubernetes 1.20.2, the oldest version, built from Debian's source package.

Debian packages only the client of Kubernetes, but its source package has the whole tree with its dependencies
vendored, so Go alone builds it.
"""

import os

from . import aptsource, kubenewest
from .fail import Unusable
from .shell import CommandFailed, run

VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kubelet")
PACKAGE = "k8s.io/kubernetes"
GENERATED = f"{PACKAGE}/pkg/generated/openapi"
VERSION_PACKAGE = f"{PACKAGE}/vendor/k8s.io/component-base/version"


def build(programs, work, out):
    """Everything on the way to the programs, Go's cache included, is below `work`."""
    tree = _unpack(work)
    environment = _go_environment(work)
    _generate_openapi(tree, environment)
    _compile(programs, tree, environment, out)


def _unpack(work):
    download = os.path.join(work, "download")
    os.makedirs(download)
    tarball = aptsource.download(download)
    if VERSION not in os.path.basename(tarball):
        raise Unusable(
            f"This distribution's source package is {os.path.basename(tarball)}, not Kubernetes {VERSION}; "
            "give ready binaries with --kube-bin-dir."
        )
    tree = os.path.join(work, "go", "src", *PACKAGE.split("/"))
    os.makedirs(tree)
    run(["tar", "-xf", tarball, "--strip-components=1", "-C", tree], timeout=300)
    return tree


def _go_environment(work):
    """GOPATH mode, because the tree is older than the module rules of today's Go."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GO")}
    environment.update(
        GOPATH=os.path.join(work, "go"), GOCACHE=os.path.join(work, "cache"),
        GOGC=kubenewest.COLLECT, GO111MODULE="off", GOTOOLCHAIN="local", GOFLAGS="", CGO_ENABLED="0",
    )
    return environment


def _generate_openapi(tree, environment):
    """The one generated file that upstream does not commit; the API server does not link without it."""
    generator = os.path.join(environment["GOPATH"], "openapi-gen")
    _go(["build", "-o", generator, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen"], tree, environment)
    run(
        [
            generator, "--input-dirs", ",".join(_openapi_packages(tree)), "--output-package", GENERATED,
            "--output-file-base", "zz_generated.openapi", "--output-base", os.path.join(environment["GOPATH"], "src"),
            "--go-header-file", os.path.join(tree, "hack", "boilerplate", "boilerplate.generatego.txt"),
            "--report-filename", os.path.join(environment["GOPATH"], "openapi-violations"),
        ],
        timeout=900, cwd=tree, env=environment,
    )


def _openapi_packages(tree):
    """Every package that asks for it in some file, plus one that is always needed.

    The staging directories are what `vendor/k8s.io` links to, and only the vendored import path
    is the one the compiler sees.
    """
    found = {f"{PACKAGE}/vendor/k8s.io/apimachinery/pkg/version"}
    for base, prefix in (("staging/src", f"{PACKAGE}/vendor"), ("pkg", f"{PACKAGE}/pkg"), ("cmd", f"{PACKAGE}/cmd")):
        top = os.path.join(tree, base)
        for directory, _, files in os.walk(top):
            if "code-generator" not in directory and any(_asks_for_openapi(directory, name) for name in files):
                found.add(f"{prefix}/{os.path.relpath(directory, top)}")
    return sorted(found)


def _asks_for_openapi(directory, name):
    if not name.endswith(".go") or name.endswith("_test.go"):
        return False
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        return "+k8s:openapi-gen=true" in file.read()


def _compile(programs, tree, environment, out):
    major, minor, _ = VERSION.split(".")
    stamps = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {VERSION_PACKAGE}.{k}={v}" for k, v in stamps.items())])
    _go(["build", kubenewest.QUICK, "-ldflags", flags, "-o", out + "/", *(f"./cmd/{name}" for name in programs)], tree, environment)


def _go(arguments, tree, environment):
    try:
        run(["nice", "go", *arguments], timeout=3600, cwd=tree, env=environment)
    except CommandFailed as error:
        raise Unusable(f"Go cannot build Kubernetes {VERSION} here; use --kube-bin-dir ({error}).") from error
