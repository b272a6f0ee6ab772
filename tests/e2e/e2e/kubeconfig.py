"""Kubeconfig files."""

import json


def write(path, server, authority, certificate, key):
    """One cluster, one user. JSON is YAML, and needs no library."""
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": "e2e",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "e2e", "user": {"client-certificate": certificate, "client-key": key}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": "e2e"}}],
    }
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    return path
