"""Atomic file writes, also on a full disk, and the names of shared files."""

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
"""Name of the weights that `robotest train` writes, within the policy's folder."""
DATA_NOTE: Final = "data"
"""Metadata key of a policy file: path of the demonstrations as passed to `robotest train`."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end; on an error delete it and leave `path` unchanged.

    On a full disk a leftover partial file would occupy space that the run needs to continue.
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
    """Write a file atomically; create its folder if needed.

    Raises:
        OSError: it cannot be written; an existing file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)


def append_line(path: Path, line: str) -> None:
    """Append a line, completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    data = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(data) < len(data):  # a short write: the disk is full, which only the next write would report
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class ForgivingFile(io.RawIOBase):
    """A new file for h5py whose writes never fail.

    When a write fails, e.g. on a full disk, HDF5 keeps dirty buffers, writes them again when the file is closed, and
    may crash the process. Here, from the first failure on, writes are held in memory, where HDF5 can read them back.
    The owner must check `error` and give up if it is set.

    Raises:
        OSError: it cannot be opened; `BlockingIOError` if another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._held: list[tuple[int, bytes]] = []  # (offset, bytes) that could not be written, in order
        self._at = self._end = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock()
            os.ftruncate(self._descriptor, 0)
        except OSError:
            os.close(self._descriptor)
            raise

    def readable(self) -> bool:
        """Return True: HDF5 reads back what it wrote."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: HDF5 writes at any offset."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read from the disk and from the held writes."""
        target = memoryview(buffer).cast("B")
        size = min(len(target), max(self._end - self._at, 0))
        stored = os.pread(self._descriptor, size, self._at)
        target[:size] = stored.ljust(size, b"\0")
        for offset, content in self._held:
            first, last = max(offset, self._at), min(offset + len(content), self._at + size)
            if first < last:
                target[first - self._at : last - self._at] = content[first - offset : last - offset]
        self._at += size
        return size

    def write(self, data: Any) -> int:
        """Write to the disk; hold what cannot be written."""
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
        """Flush to the disk; some file systems report a full disk only now."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            self.error = self.error or error

    def close(self) -> None:
        """Close and drop the held writes."""
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
