"""The images that nodes would pull, made of the programs that are here."""

import os

from .. import image
from ..shell import run


def control_plane(kubernetes, directory):
    """Archives of the static pods' images, under the names that kubeadm gives them."""
    kubeadm = kubernetes.program("kubeadm")
    named = run([kubeadm, "config", "images", "list", "--kubernetes-version", f"v{kubernetes.version}"]).stdout.split()
    for name in named:
        program = name.split("/")[-1].split(":")[0]
        if os.path.exists(kubernetes.program(program)):
            yield image.write_program(os.path.join(directory, f"{program}.tar"), name, kubernetes.program(program))


def every_node(cache_root, directory, hook):
    """The suite's own image, which is also that of the sandboxes. `hook` is the certificate of its webhook, and the key."""
    certificate, key = hook
    return image.write_archive(os.path.join(directory, "image.tar"), image.build_program(cache_root),
                               {"etc/webhook.crt": certificate, "etc/webhook.key": key})
