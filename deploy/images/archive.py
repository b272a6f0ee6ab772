"""Prints the bytes that a node pulls for the image in an OCI archive: its configuration and its compressed layers."""

import json
import sys
import tarfile


def blob(archive, descriptor):
    path = "blobs/" + descriptor["digest"].replace(":", "/")
    return json.load(archive.extractfile(path))


def main():
    with tarfile.open(sys.argv[1]) as archive:
        [manifest] = json.load(archive.extractfile("index.json"))["manifests"]
        content = blob(archive, manifest)
        print(sum(part["size"] for part in [content["config"], *content["layers"]]))


main()
