"""Standard output and error: characters they cannot encode, closed readers and full disks."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import IO, Any, Final

BROKEN_PIPE: Final = 141
"""Exit code when the reader closed the output: 128 + SIGPIPE, as shells report it."""
_ERRORS: Final = "robotest.shown"


def prepare() -> None:
    """Show characters outside the encoding as ``?``; replace closed streams by the null device."""
    codecs.register_error(_ERRORS, _shown)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - closed at exit
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def say(message: object) -> None:
    """Write one line to standard error, if possible."""
    try:
        sys.stderr.write(f"robotest: {' '.join(str(message).split())}\n")
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def finish(code: int) -> int:
    """Flush standard output; return the exit code, or that of the failure to flush."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        return code or BROKEN_PIPE
    except OSError as error:
        _abandon(sys.stdout)
        if code not in (2, 130):  # these have printed their reason already
            say(f"error: cannot write to standard output: {error.strerror or error}")
        return code or 2
    return code


def nobody_reads() -> bool:
    """Return whether the reader of standard output or error has closed it."""
    return _closed(sys.stdout) or _closed(sys.stderr)


def _closed(stream: IO[Any]) -> bool:
    with contextlib.suppress(OSError, ValueError):
        poller = select.poll()
        poller.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
    return False


def _abandon(stream: IO[Any]) -> None:
    """Redirect a stream to the null device: the interpreter flushes it once more at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode surrogate escapes (undecodable bytes of file names) as these bytes, all else as ``?``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return b"".join(bytes([ord(x) - 0xDC00]) if "\udc80" <= x <= "\udcff" else b"?" for x in letters), error.end
