"""A big random file and its checksum."""

import hashlib
import os


class RandomFile:
    """Random, so that no part of it resembles another."""

    def __init__(self, path, megabytes):
        self.path = path
        digest = hashlib.sha256()
        with open(path, "wb") as file:
            for _ in range(megabytes):
                block = os.urandom(1 << 20)
                digest.update(block)
                file.write(block)
        self.sha256 = digest.hexdigest()
