"""Standard output and error: letters that they cannot show, and a reader or a disk that takes no more."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
from typing import IO, Any, Final

BROKEN_PIPE: Final = 141
"""Exit code when nobody reads the output any more: 128 and the signal, as shells say of a program it ended."""
_ERRORS: Final = "robotest.shown"


def prepare() -> None:
    """Have what an encoding lacks shown as ``?``, and put streams that lead nowhere in the place of closed ones."""
    codecs.register_error(_ERRORS, _shown)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def say(message: object) -> None:
    """Write one line to standard error, if it can be written."""
    try:
        sys.stderr.write(f"robotest: {' '.join(str(message).split())}\n")
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def finish(code: int) -> int:
    """Write what is still in standard output's buffer; return the exit code, another one if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
        return code or BROKEN_PIPE
    except OSError as error:
        _abandon(sys.stdout)
        if code not in (2, 130):  # else it has been said already why there is nothing to show
            say(f"error: cannot write to standard output: {error.strerror or error}")
        return code or 2
    return code


def nobody_reads() -> bool:
    """Return whether the other end of one of the streams is closed."""
    return _closed(sys.stdout) or _closed(sys.stderr)


def _closed(stream: IO[Any]) -> bool:
    with contextlib.suppress(OSError, ValueError):
        poller = select.poll()
        poller.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))
    return False


def _abandon(stream: IO[Any]) -> None:
    """Lead a stream nowhere: the interpreter writes out its buffer once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _shown(error: UnicodeError) -> tuple[str | bytes, int]:
    """Keep the bytes of a file's name that are no text, as Python reads them."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return b"".join(bytes([ord(x) - 0xDC00]) if "\udc80" <= x <= "\udcff" else b"?" for x in letters), error.end
