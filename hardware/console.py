"""Where the operator is: questions before and after an episode, and during it one meaning for every key: stop."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from robotest.hardware.robot import RobotError

CONTROL_C = b"\x03"


@runtime_checkable
class Console(Protocol):
    """An operator's."""

    def tell(self, text: str) -> None:
        """Say something."""
        ...

    def confirm(self, text: str) -> None:
        """Wait until the operator agrees; `KeyboardInterrupt` if not."""
        ...

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Wait for one of the answers' keys and return it."""
        ...

    def watched(self, pressed: Callable[[bytes], None]) -> contextlib.AbstractContextManager[None]:
        """Within it every key is given to `pressed`, at once and from another thread."""
        ...


class Terminal:
    """A person at a terminal.

    Raises:
        RobotError: standard input is no terminal, so nobody could stop the arms.
    """

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise RobotError("a robot needs an operator: standard input is no terminal. Try --simulate or --shadow")

    def tell(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{text}\n")

    def confirm(self, text: str) -> None:
        """Wait for Enter."""
        sys.stderr.write(f"{text} ")
        sys.stderr.flush()
        if not sys.stdin.readline():
            raise KeyboardInterrupt

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Ask until an answer is one of those that there are."""
        choices = ", ".join(f"{key} = {meaning}" for key, meaning in answers.items())
        while True:
            sys.stderr.write(f"{text} [{choices}] ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            if not line:
                raise KeyboardInterrupt
            if line.strip().lower() in answers:
                return line.strip().lower()

    @contextlib.contextmanager
    def watched(self, pressed: Callable[[bytes], None]) -> Iterator[None]:
        """Take every key as it is pressed, Ctrl-C too."""
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        ended_read, ended_write = os.pipe()
        thread = threading.Thread(target=_watch, args=(descriptor, ended_read, pressed), daemon=True)
        tty.setraw(descriptor, termios.TCSANOW)
        try:
            thread.start()
            yield
        finally:
            os.write(ended_write, b".")
            thread.join()
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
            for end in (ended_read, ended_write):
                os.close(end)


class Unattended:
    """Nobody: for simulated controllers, where every question has one answer."""

    def tell(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{text}\n")

    def confirm(self, text: str) -> None:
        """Agree."""

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Refuse to answer for a person."""
        raise RobotError(f"nobody is there to answer: {text} {', '.join(answers)}")

    @contextlib.contextmanager
    def watched(self, pressed: Callable[[bytes], None]) -> Iterator[None]:  # noqa: ARG002 - there are no keys
        """Do nothing."""
        yield


def _watch(descriptor: int, ended: int, pressed: Callable[[bytes], None]) -> None:
    while True:
        ready, _, _ = select.select([descriptor, ended], [], [])
        if ended in ready:
            return
        key = os.read(descriptor, 64)
        if not key:
            return
        pressed(key)
