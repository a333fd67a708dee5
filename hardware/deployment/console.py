"""Where the operator is: questions before and after an episode, and during it one meaning for every key: stop."""

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
    """A person at a terminal. While keys are watched, those typed as an answer to a question are the answer.

    Raises:
        RobotError: standard input is no terminal, so nobody could stop the arms.
    """

    def __init__(self) -> None:
        if not sys.stdin.isatty():
            raise RobotError("a robot needs an operator: standard input is no terminal. Try --simulate or --shadow")
        self._watched = False
        self._answer: queue.SimpleQueue[bytes] | None = None

    def tell(self, text: str) -> None:
        """Print a line."""
        sys.stderr.write(f"{text}\n")

    def confirm(self, text: str) -> None:
        """Wait for Enter."""
        self._ask(text)

    def choose(self, text: str, answers: Mapping[str, str]) -> str:
        """Ask until an answer is one of those that there are."""
        choices = ", ".join(f"{key} = {meaning}" for key, meaning in answers.items())
        while (answer := self._ask(f"{text} [{choices}]")) not in answers:
            pass
        return answer

    @contextlib.contextmanager
    def watched(self, pressed: Callable[[bytes], None]) -> Iterator[None]:
        """Take every key as it is pressed, Ctrl-C too."""
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
        self._answer = queue.SimpleQueue() if self._watched else None  # before anybody can answer
        sys.stderr.write(f"{text} ")
        sys.stderr.flush()
        line = self._typed(self._answer) if self._answer else sys.stdin.readline()
        if not line:
            raise KeyboardInterrupt
        return line.strip().lower()

    def _typed(self, answer: queue.SimpleQueue[bytes]) -> str:
        """Return a line of watched keys; empty for Ctrl-C and the end of input."""
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
