"""Prints the licences of what an image holds: `cargo metadata | licences.py PACKAGE LIBRARY…`.

First a list of every crate that is linked into the program, with version and licence; then the texts that the crates
and the libraries' Debian packages carry, each text once.
"""

import json
import pathlib
import subprocess
import sys

TEXTS = ("LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE")


def linked(metadata, package):
    """The packages that the program is made of. Dependencies for builds and tests are not in it."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {found["id"]: found for found in metadata["packages"]}
    todo = [found["id"] for found in metadata["packages"] if found["name"] == package]
    seen = set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        macro = any("proc-macro" in target["kind"] for target in packages[current]["targets"])
        # A macro runs while the program is built, and so does all that it needs.
        for dependency in [] if macro else nodes[current]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return sorted((packages[found] for found in seen), key=lambda found: (found["name"], found["version"]))


def texts(package):
    directory = pathlib.Path(package["manifest_path"]).parent
    return [file.read_text("utf-8", "replace") for file in sorted(directory.iterdir())
            if file.is_file() and file.name.upper().startswith(TEXTS)]


def debian(library):
    """The Debian package of a library, and the text that Debian ships for it."""
    for path in (library, library.removeprefix("/usr")):
        found = subprocess.run(["dpkg", "--search", path], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            name = found.stdout.split(":")[0]
            copyright_file = pathlib.Path("/usr/share/doc", name, "copyright")
            return name, copyright_file.read_text("utf-8", "replace")
    raise SystemExit(f"licences.py: no Debian package has the file {library}, so its licence is not known")


def main():
    by_text = {}
    for package in linked(json.load(sys.stdin), sys.argv[1]):
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license']}")
        if package["source"] is None:
            continue
        found = texts(package)
        if not found:
            print(f"  (its package has no text of the licence; see {package['repository']})")
        for text in found:
            by_text.setdefault(text.strip(), []).append(name)
    for library in sys.argv[2:]:
        name, text = debian(library)
        print(f"{pathlib.Path(library).name}: Debian package {name}")
        by_text.setdefault(text.strip(), []).append(name)
    for text, names in by_text.items():
        print(f"\n{'=' * 100}\n{', '.join(dict.fromkeys(names))}\n{'=' * 100}\n{text}")


main()
