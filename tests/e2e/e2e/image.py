"""Images, as docker archives: there is no registry to pull from, so they are written here and imported.

The suite's own has a static busybox and our static test program. It is the sandbox image too: without
arguments the program just waits.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

from .fail import Unusable
from .shell import CommandFailed, run

NAME, KUBECTL = "tunnel.test/e2e:1", "tunnel.test/kubectl:1"
APPLETS = ("sh", "cat", "echo", "sleep", "tar", "sha256sum", "stty", "tty", "kill", "dd", "rm", "ls", "head", "wc", "seq")
SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pod")


def build_program(cache_root):
    """Compile the pod program, or find it: the name in the cache is the digest of its source.

    It uses Go's standard library only, so nothing is downloaded.
    """
    target = os.path.join(cache_root, f"pod-{_source_digest()}")
    if not os.path.exists(target):
        partial = f"{target}.{os.getpid()}"
        environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off", "GOPROXY": "off"}
        try:
            run(["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", partial, "."], cwd=SOURCE, env=environment, timeout=600)
        except CommandFailed as error:
            raise Unusable(f"The pod program cannot be built with this Go ({error}).") from error
        os.rename(partial, target)
    return target


def _source_digest():
    digest = hashlib.sha256()
    for name in sorted(os.listdir(SOURCE)):
        with open(os.path.join(SOURCE, name), "rb") as file:
            digest.update(name.encode() + b"\0" + file.read())
    return digest.hexdigest()[:16]


def write_archive(path, program, extra_files):
    """The suite's image. `extra_files` maps paths in the image to files here."""
    return _write(path, NAME, ["/bin/pod", "wait"], _layer(program, extra_files))


def write_program(path, name, program, directory="/bin"):
    """An image of nothing but one static program, which lies in `directory` of the image."""
    place = os.path.join(directory, os.path.basename(program))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer, open(program, "rb") as file:
        _add(layer, place.lstrip("/"), file.read(), 0o755)
    return _write(path, name, [place], buffer.getvalue())


def _write(path, name, entrypoint, layer):
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": _architecture(), "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(path, "w") as archive:
        for entry, data in (("layer.tar", layer), ("config.json", config), ("manifest.json", manifest)):
            _add(archive, entry, data, 0o644)
    return path


def _layer(program, extra_files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for directory in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777 if directory == "tmp" else 0o755
            layer.addfile(entry)
        _add(layer, "bin/busybox", _static_busybox(), 0o755)
        with open(program, "rb") as file:
            _add(layer, "bin/pod", file.read(), 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        for name, source in extra_files.items():
            with open(source, "rb") as file:
                _add(layer, name, file.read(), 0o644)
    return buffer.getvalue()


def _static_busybox():
    """A dynamic busybox, as some machines have it, would not start in an image without a libc."""
    path = shutil.which("busybox")
    with open(path, "rb") as file:
        data = file.read()
    if subprocess.run(["ldd", path], capture_output=True, check=False).returncode == 0:
        raise Unusable(f"{path} is not static: install the Debian package busybox-static.")
    return data


def _architecture():
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _add(archive, name, data, mode):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))
