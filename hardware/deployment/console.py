"""The operator's console: questions before and after an episode; during it every key stops the arms."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

from robotest.hardware.robot import RobotError

CONTROL_C = b"\x03"


@runtime_checkable
class Console(Protocol):
    """Talks to the operator."""

    def tell(self, text: str) -> None:
        """Print a line."""
        ...

    def confirm(self, text: str) -> None:
        """Wait until the operator agrees; `KeyboardInterrupt` if they do not."""
        ...

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Ask until the operator enters a key of `answers`, and return it."""
        ...

    def watched(self, pressed: Callable[[bytes], None]) -> contextlib.AbstractContextManager[None]:
        """Pass every key to `pressed` at once, from another thread, while the context is open."""
        ...


class Terminal:
    """A person at a terminal. Keys that answer a question do not stop the arms.

    Raises:
        RobotError: standard input is not a terminal, so nobody could stop the arms.
    """

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise RobotError("a robot needs an operator: standard input is not a terminal. Try --simulate or --shadow")
        self._watched = False
        self._answer: queue.SimpleQueue[bytes] | None = None

    def tell(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{text}\n")

    def confirm(self, text: str) -> None:
        """Wait for Enter."""
        self._ask(text)

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Ask until the answer is valid."""
        choices = ", ".join(f"{key} = {meaning}" for key, meaning in answers.items())
        while (answer := self._ask(f"{text} [{choices}]")) not in answers:
            pass
        return answer

    @contextlib.contextmanager
    def watched(self, pressed: Callable[[bytes], None]) -> Iterator[None]:
        """Read keys as they are pressed, Ctrl-C too."""
        import termios

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        keys = termios.tcgetattr(descriptor)
        keys[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
        ended_read, ended_write = os.pipe()
        thread = threading.Thread(target=self._watch, args=(descriptor, ended_read, pressed), daemon=True)
        termios.tcsetattr(descriptor, termios.TCSANOW, keys)
        self._watched = True
        try:
            thread.start()
            yield
        finally:
            os.write(ended_write, b".")
            thread.join()
            self._watched = False
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
            for end in (ended_read, ended_write):
                os.close(end)

    def _ask(self, text: str) -> str:
        self._answer = queue.SimpleQueue() if self._watched else None  # before the question appears
        sys.stderr.write(f"{text} ")
        sys.stderr.flush()
        line = self._typed(self._answer) if self._answer else sys.stdin.readline()
        if not line:
            raise KeyboardInterrupt
        return line.strip().lower()

    def _typed(self, answer: queue.SimpleQueue[bytes]) -> str:
        """Return a line of watched keys; an empty string for Ctrl-C and the end of input."""
        typed = b""
        try:
            while not typed.endswith((b"\r", b"\n")):
                key = answer.get()
                if not key or CONTROL_C in key:
                    return ""
                sys.stderr.write(key.decode("utf-8", "replace"))
                sys.stderr.flush()
                typed += key
        finally:
            self._answer = None
            sys.stderr.write("\n")
        return typed.decode("utf-8", "replace")

    def _watch(self, descriptor: int, ended: int, pressed: Callable[[bytes], None]) -> None:
        while True:
            ready, _, _ = select.select([descriptor, ended], [], [])
            if ended in ready:
                return
            key, asking = os.read(descriptor, 64), self._answer
            if asking is not None:
                asking.put(key)
            if asking is None or CONTROL_C in key:
                pressed(key)
            if not key:
                return


class Unattended:
    """No operator: for simulated controllers, which need none."""

    def tell(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{text}\n")

    def confirm(self, text: str) -> None:
        """Agree."""

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Raise `RobotError`: only a person can answer."""
        raise RobotError(f"no operator to answer: {text} {', '.join(answers)}")

    @contextlib.contextmanager
    def watched(self, pressed: Callable[[bytes], None]) -> Iterator[None]:  # noqa: ARG002 - there is no keyboard
        """Do nothing."""
        yield
