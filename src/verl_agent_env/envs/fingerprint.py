"""Fingerprints of the code of environments, independent of declared versions."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

_OURS = __name__.partition(".")[0]
_MAX_FILES = 5_000
_FOREIGN = ("builtins", "gymnasium", "typing", "abc")


def fingerprint_of(env_class: type) -> bytes:
    """Digest the source of the packages that an environment's class comes from, ours included: six hex digits.

    Of a package that the class only uses, its ``code_version`` is part of the digest. Two workers with different
    fingerprints share the rules and the state of the environment, but may give different observations.
    """
    packages = {_OURS, *(base.__module__.partition(".")[0] for base in env_class.__mro__)}
    digest = hashlib.blake2b(getattr(env_class, "code_version", "").encode(), digest_size=3)
    for package in sorted(packages.difference(_FOREIGN)):
        digest.update(_source_digest(package))
    return digest.hexdigest().encode()


@functools.cache
def _source_digest(package: str) -> bytes:
    """Digest all Python files of a package; read once, so that files replaced later change nothing."""
    digest = hashlib.blake2b(package.encode(), digest_size=16)
    for name, path in _files_of(package):
        try:
            source = path.read_bytes()
        except OSError:
            continue
        digest.update(b"%b\0%d\0" % (name.encode(errors="replace"), len(source)))
        digest.update(source)
    return digest.digest()


def _files_of(package: str) -> Iterator[tuple[str, Path]]:
    module = sys.modules.get(package)
    file = getattr(module, "__file__", None)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    if not folders:
        if file:
            yield "", Path(file)
        return
    found = [(str(path.relative_to(folder)), path) for folder in folders for path in folder.rglob("*.py")]
    yield from sorted(found)[:_MAX_FILES]
