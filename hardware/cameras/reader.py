"""Reading a blocking camera driver in a thread."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from typing import Any, Final

from robotest.hardware.cameras.watch import CameraError, Frame

FIRST_FRAME_S: Final = 3.0
"""Time that `latest` waits for the first frame [s]."""
_CLOSE_S: Final = 2.0  # how long `close` waits for a driver that blocks


class Reader:
    """A thread that reads a blocking driver and keeps the newest frame.

    The thread also releases the device, which must not happen during a read.

    Args:
        name: of the camera.
        read: returns a frame, or None if none came for a while.
        release: releases the device.
    """

    def __init__(self, name: str, read: Callable[[], Frame | None], release: Callable[[], None]) -> None:
        self._name, self._read, self._release = name, read, release
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"camera {name}", daemon=True)
        self._thread.start()

    def latest(self) -> Frame:
        """Return the newest frame; wait for the first one up to `FIRST_FRAME_S`.

        Raises:
            CameraError: there was none, or the thread failed; its exception is the cause.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._error is not None, FIRST_FRAME_S)
            if self._error is not None:
                known = isinstance(self._error, CameraError)
                message = str(self._error) if known else f"camera {self._name!r} failed: {self._error}"
                raise CameraError(message) from self._error
            if self._frame is None:
                raise CameraError(f"camera {self._name!r} gave no frame within {FIRST_FRAME_S:g} s: plug it in anew")
            return self._frame

    def close(self) -> None:
        """End the thread. If the driver does not return within 2 s, the thread ends later, when it does."""
        self._ending.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._release)
                while not self._ending.is_set():
                    self._publish(self._read())
        except Exception as error:  # noqa: BLE001 - in a thread nothing else would catch it: `latest` raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _publish(self, frame: Frame | None) -> None:
        if frame is not None:
            with self._changed:
                self._frame = frame
                self._changed.notify_all()


def opened(name: str, reader: Reader | None) -> Reader:
    """Return the reader of a camera that is open; `CameraError` if it is not."""
    if reader is None:
        raise CameraError(f"camera {name!r} is not open: call open() first")
    return reader


def imported(module: str, extra: str, hint: str) -> Any:
    """Import a camera's library; `CameraError` says how to install it, or why it cannot be loaded."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise CameraError(f"{error.name} is not installed: pip install 'robotest[{extra}]'") from error
    except ImportError as error:
        raise CameraError(f"{module} cannot be loaded: {error} ({hint})") from error
