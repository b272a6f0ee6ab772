"""The bytes that the test pod's /blob sends, made here for comparison."""

import array
import functools
import hashlib
import sys
import threading

_CHUNK = 1 << 17
_lock = threading.Lock()


def sha256_of_numbers(size):
    """Several checks ask at the same time; the sum is computed once."""
    with _lock:
        return _compute(size)


@functools.lru_cache
def _compute(size):
    """SHA-256 of 0, 1, 2, ... as little-endian 8-byte words, `size` bytes in all."""
    digest = hashlib.sha256()
    for start in range(0, size // 8, _CHUNK):
        words = array.array("Q", range(start, min(start + _CHUNK, size // 8)))
        if sys.byteorder == "big":
            words.byteswap()
        digest.update(words)
    return digest.hexdigest()
