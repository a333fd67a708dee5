"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what then takes the place of `path`; after an error it is gone, and `path` as it was.

    On a full disk what was written in vain would keep the room that going on needs.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def append_line(path: Path, line: str) -> None:
    """Append a line, all of it or nothing.

    Raises:
        OSError: it cannot be written.
    """
    data = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(data) < len(data):  # what there was room for; the next write would say that there is no more
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
