"""Ctrl-C, handled only at safe points.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Inside a finaliser or a weak reference's
callback (h5py runs one for every file it closes) the interpreter prints and drops it, and the run would continue.
Therefore a run handles Ctrl-C only where it calls `check`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from robotest.errors import InterruptedRunError

_pending = False  # global, as signal handlers are
_pressed = False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer the first Ctrl-C to the next `check` or the end of the context; raise a second one at once.

    Does nothing outside the main thread, or where Python's default handler is not installed.
    """
    global _pending, _pressed
    _pending = _pressed = False
    try:
        installed = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if installed:
            signal.signal(signal.SIGINT, _remember)
    except ValueError:  # not the main thread
        installed = False
    try:
        yield
        check()
    finally:
        _pending = _pressed = False  # threads that go on have nothing to do with it
        if installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def check() -> None:
    """Raise `KeyboardInterrupt` if Ctrl-C was pressed within `deferred`."""
    global _pending
    if _pending:
        _pending = False
        raise KeyboardInterrupt


def check_anywhere() -> None:
    """As `check`, for what may wait long, in any thread.

    Raises:
        InterruptedRunError: in another thread than the main one, which gets its `KeyboardInterrupt` by itself.
    """
    if threading.current_thread() is threading.main_thread():
        check()
    elif _pressed:
        raise InterruptedRunError("interrupted")


def _remember(*_: object) -> None:
    global _pending, _pressed
    if _pending:
        raise KeyboardInterrupt
    _pending = _pressed = True
