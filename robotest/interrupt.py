"""Ctrl-C, taken where nothing is lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Inside a finaliser or a weak reference's
callback (h5py runs one for every file it closes) the interpreter prints it and drops it, and the run goes on as if
nobody had asked. So a run takes Ctrl-C only where it calls `check`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_asked = False  # signals belong to the process, so this does too


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it, the first Ctrl-C is raised by the next `check` or at the end; a second one at once.

    Does nothing where Ctrl-C is ignored or somebody else's: in threads, or under a handler of the caller's.
    """
    global _asked
    _asked = False
    try:
        mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if mine:
            signal.signal(signal.SIGINT, _remember)
    except ValueError:  # not the main thread
        mine = False
    try:
        yield
        check()
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check() -> None:
    """Raise `KeyboardInterrupt` if Ctrl-C was pressed within `deferred`."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt


def _remember(*_: object) -> None:
    global _asked
    if _asked:
        raise KeyboardInterrupt
    _asked = True
