"""Debian's source package `kubernetes`, downloaded and verified by apt itself.

The system's own lists are read, turned into `deb-src` entries and used from a private
directory, so nothing on the machine changes, and whatever mirror it uses is used here as well.
"""

import glob
import os
import re

from .fail import Unusable
from .shell import CommandFailed, run

LISTS = "/etc/apt"


def download(directory):
    """Put the source package's files into `directory` and return the path of its orig tarball."""
    options = _private_apt(directory)
    try:
        run(["apt-get", *options, "update"], timeout=300)
        run(["apt-get", *options, "source", "--download-only", "kubernetes"], timeout=600, cwd=directory)
    except CommandFailed as error:
        raise Unusable(
            "The Debian source package `kubernetes` cannot be downloaded; give ready binaries with "
            f"--kube-bin-dir instead ({error})."
        ) from error
    return _orig_tarball(directory)


def _orig_tarball(directory):
    tarballs = glob.glob(os.path.join(directory, "kubernetes_*.orig.tar.*"))
    if len(tarballs) != 1:
        raise Unusable(f"The source package `kubernetes` has {len(tarballs)} orig tarballs, one was expected.")
    return tarballs[0]


def _private_apt(directory):
    """Options that make apt use source lists, indexes and caches of ours only."""
    parts, lists = os.path.join(directory, "parts"), os.path.join(directory, "lists")
    os.makedirs(parts)
    os.makedirs(os.path.join(lists, "partial"))
    _write_source_lists(parts)
    return [
        "-o", "Dir::Etc::sourcelist=/dev/null",
        "-o", f"Dir::Etc::sourceparts={parts}",
        "-o", f"Dir::State::lists={lists}",
        "-o", "Dir::Cache::pkgcache=",
        "-o", "Dir::Cache::srcpkgcache=",
        "-o", "APT::Sandbox::User=root",
    ]


def _write_source_lists(parts):
    codename = _codename()
    stanzas = []
    for path in glob.glob(f"{LISTS}/sources.list.d/*.sources"):
        stanzas += _deb822(_read(path), codename)
    lines = []
    for path in [f"{LISTS}/sources.list", *glob.glob(f"{LISTS}/sources.list.d/*.list")]:
        lines += _one_line(_read(path), codename)
    if not stanzas and not lines:
        raise Unusable(f"No apt source of the suite {codename!r} was found under {LISTS}; use --kube-bin-dir.")
    with open(os.path.join(parts, "e2e.sources"), "w", encoding="utf-8") as file:
        file.write("\n\n".join(stanzas) + "\n")
    with open(os.path.join(parts, "e2e.list"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def _deb822(text, codename):
    """Stanzas of the distribution itself, as sources. Comments go: apt forbids some of their places."""
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        suites = re.search(r"(?m)^Suites:(.*)$", stanza)
        if suites and codename in suites.group(1).split() and not re.search(r"(?mi)^Enabled:\s*no", stanza):
            yield re.sub(r"(?m)^Types:.*$", "Types: deb-src", stanza.strip())


def _one_line(text, codename):
    for line in text.splitlines():
        if re.match(r"deb\s", line) and codename in line.split():
            yield re.sub(r"^deb\s", "deb-src ", line)


def _codename():
    match = re.search(r"(?m)^VERSION_CODENAME=(\S+)", _read("/etc/os-release"))
    if not match:
        raise Unusable("/etc/os-release names no VERSION_CODENAME; give ready binaries with --kube-bin-dir.")
    return match.group(1).strip('"')


def _read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
