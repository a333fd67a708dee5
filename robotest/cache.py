"""The cache, for files that can be recreated: ``$XDG_CACHE_HOME/robotest``, else ``~/.cache/robotest``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Final

from robotest.errors import RobotestError
from robotest.files import write_whole

SMALL: Final = 2**24
"""Smaller files are hashed faster than is worth remembering [bytes]."""


def folder(name: str) -> Path:
    """Return a folder of the cache, created if missing.

    Raises:
        RobotestError: it cannot be created.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "robotest" / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RobotestError(
            f"cannot create cache folder {path}: {error.strerror or error}; set XDG_CACHE_HOME to a folder with write"
            " permission"
        ) from error
    return path


def sha256(path: Path) -> str:
    """Return the hash of a file's contents, remembered by its path, size and times if it is large.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size < SMALL:
        return _sha256(path)
    known = folder("digests") / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    state = _state(path)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(known.read_text(encoding="utf-8"))
        if record["state"] == state:
            return str(record["sha256"])
    digest = _sha256(path)
    if _state(path) == state:  # not written to while it was read
        with contextlib.suppress(OSError):
            write_whole(known, json.dumps({"state": state, "sha256": digest}).encode())
    return digest


def _state(path: Path) -> list[int]:
    """Return what changes when a file is written to or replaced."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
