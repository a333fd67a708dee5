"""The cache, for files that can be recreated: ``$XDG_CACHE_HOME/robotest``, else ``~/.cache/robotest``."""

from __future__ import annotations

import os
from pathlib import Path

from robotest.errors import RobotestError


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
