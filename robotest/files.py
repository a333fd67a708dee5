"""Files that a reader sees whole or not at all, also on a full disk, and their names."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

POLICY_FILE: Final = "policy.safetensors"
"""In a policy's folder: what `robotest train` writes."""
DATA_NOTE: Final = "data"
"""In a policy file's metadata: path of the demonstrations, as it was given to `robotest train`."""


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


def write_whole(path: Path, content: bytes) -> None:
    """Write a file, and the folder it lies in.

    Raises:
        OSError: it cannot be written; what was there before is still there, and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)


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


class ForgivingFile(io.RawIOBase):
    """A new file for h5py, whose writes never fail.

    When a write fails, on a full disk for instance, HDF5 is left with buffers that it writes again when the file is
    closed, and may take the whole process down. Here, from the first failure on, what is written stays in memory, where
    HDF5 finds it again; `error` says what happened, and whoever owns the file is to look at it and give up.

    Raises:
        OSError: it cannot be opened; `BlockingIOError` if another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []  # (where, what) could not be written, in order
        self._at = self._end = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            os.ftruncate(self._descriptor, 0)
        except OSError:
            os.close(self._descriptor)
            raise

    def readable(self) -> bool:
        """What was written can be read again."""
        return True

    def writable(self) -> bool:
        """It is there to be written."""
        return True

    def seekable(self) -> bool:
        """HDF5 goes where it likes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read what was written, be it on the disk or held."""
        target = memoryview(buffer).cast("B")
        size = min(len(target), max(self._end - self._at, 0))
        found = os.pread(self._descriptor, size, self._at)
        target[:size] = found.ljust(size, b"\0")
        for where, what in self._held:
            first, last = max(where, self._at), min(where + len(what), self._at + size)
            if first < last:
                target[first - self._at : last - self._at] = what[first - where : last - where]
        self._at += size
        return size

    def write(self, data: Any) -> int:
        """Write to the disk, or hold what it does not take."""
        content = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(content) and self.error is None:
                done += os.pwrite(self._descriptor, content[done:], self._at + done)
        except OSError as error:
            self.error = error
        if done < len(content):
            self._held.append((self._at + done, bytes(content[done:])))
        self._at += len(content)
        self._end = max(self._end, self._at)
        return len(content)

    def truncate(self, size: int | None = None) -> int:
        """See `io.IOBase.truncate`."""
        self._end = self._at if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._descriptor, self._end)
            except OSError as error:
                self.error = error
        return self._end

    def sync(self) -> None:
        """Have the system write what it holds; some file systems run out of room only now."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        """Close, and forget what is held."""
        if not self.closed:
            self._held.clear()
            os.close(self._descriptor)
        super().close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            return  # a file system without locks
